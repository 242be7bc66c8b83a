package kernel

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

// Attributes that golang.org/x/sys/unix lacks (include/uapi/linux/netfilter/nf_tables.h).
const (
	tableUserdata  = 6  // NFTA_TABLE_USERDATA, Linux 5.10
	chainUserdata  = 12 // NFTA_CHAIN_USERDATA, Linux 5.10
	objectUserdata = 8  // NFTA_OBJ_USERDATA, Linux 5.10
	setExpression  = 17 // NFTA_SET_EXPR
	setExpressions = 18 // NFTA_SET_EXPRESSIONS
)

// anonymousSet is the name from which the kernel makes one for a set of constants.
const anonymousSet = "__set%d"

// batch encodes the operations of one transaction.
type batch struct {
	family    byte
	messages  []netlink.Message
	constants uint32 // the last id given to a set
}

// encodeStep encodes a transaction. The kernel refuses it unless the
// generation is the one given; 0 means any.
func encodeStep(family firewall.Family, step firewall.Step, generation uint32) ([]netlink.Message, error) {
	b := &batch{family: familyNumber(family)}
	b.bracket(unix.NFNL_MSG_BATCH_BEGIN, generation)
	for _, op := range step {
		if err := b.op(op); err != nil {
			return nil, err
		}
	}
	// The answer to the last operation tells that all have been looked at.
	b.messages[len(b.messages)-1].Header.Flags |= netlink.Acknowledge
	b.bracket(unix.NFNL_MSG_BATCH_END, 0)
	return b.messages, nil
}

// bracket begins or ends the transaction; its resource id is the subsystem, big-endian.
func (b *batch) bracket(kind netlink.HeaderType, generation uint32) {
	data := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}
	if generation != 0 {
		data = append(data, attributes(func(e *netlink.AttributeEncoder) { e.Uint32(unix.NFNL_BATCH_GENID, generation) })...)
	}
	b.messages = append(b.messages, netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request}, Data: data})
}

func (b *batch) add(kind int, flags netlink.HeaderFlags, fill func(*netlink.AttributeEncoder)) {
	b.messages = append(b.messages, request(kind, flags, b.family, attributes(fill)))
}

func (b *batch) op(op firewall.Op) error {
	switch op := op.(type) {
	case firewall.AddTable:
		b.addTable(op)
	case firewall.TakeOver:
		b.add(unix.NFT_MSG_DELTABLE, 0, func(e *netlink.AttributeEncoder) { e.String(unix.NFTA_TABLE_NAME, firewall.TableName) })
		b.addTable(firewall.AddTable{Comment: op.Comment, Hold: firewall.Owned})
	case firewall.AddSet:
		b.addSet(op.Set)
	case firewall.AddCounter:
		b.addCounter(op.Counter)
	case firewall.AddChain:
		b.addChain(op.Chain)
	case firewall.AddElements:
		b.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, op.Set, op.Elements)
	case firewall.DeleteElements:
		b.elements(unix.NFT_MSG_DELSETELEM, 0, op.Set, op.Elements)
	case firewall.SetRules:
		return b.setRules(op.Chain)
	case firewall.DeleteChain:
		b.remove(unix.NFT_MSG_DELCHAIN, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME, op.Name)
	case firewall.DeleteSet:
		b.remove(unix.NFT_MSG_DELSET, unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME, op.Name)
	case firewall.DeleteCounter:
		b.removeObject(firewall.Object{Kind: unix.NFT_OBJECT_COUNTER, Name: op.Name})
	case firewall.DeleteObject:
		b.removeObject(op.Object)
	case firewall.DeleteTable:
		b.add(unix.NFT_MSG_DELTABLE, 0, func(e *netlink.AttributeEncoder) { e.String(unix.NFTA_TABLE_NAME, firewall.TableName) })
	default:
		return fmt.Errorf("kernel: no way to write operation %T", op)
	}
	return nil
}

func (b *batch) addTable(t firewall.AddTable) {
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_TABLE_NAME, firewall.TableName)
		e.Uint32(unix.NFTA_TABLE_FLAGS, holdFlagsOf[t.Hold])
		comment(e, tableUserdata, t.Comment)
	})
}

// comment attaches a comment the way nft does to tables, chains and counters.
func comment(e *netlink.AttributeEncoder, attribute uint16, text string) {
	if text != "" {
		e.Bytes(attribute, userdata.AppendString(nil, userdata.TypeComment, text))
	}
}

// A datatype is nft's number for a type of elements, and their size in bytes.
type datatype struct{ magic, size uint32 }

var setKinds = map[firewall.SetType]datatype{
	firewall.TypeIPv4:      kindOf(nftables.TypeIPAddr),
	firewall.TypeIPv6:      kindOf(nftables.TypeIP6Addr),
	firewall.TypeInterface: kindOf(nftables.TypeIFName),
	firewall.TypeService4:  kindOf(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
	firewall.TypeService6:  kindOf(nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService),
}

var constantKinds = map[firewall.ConstantType]datatype{
	firewall.TypePort:          kindOf(nftables.TypeInetService),
	firewall.TypeAddressKind:   kindOf(nftables.TypeFIBAddr),
	firewall.TypeICMP:          kindOf(nftables.TypeICMPType),
	firewall.TypeICMPv6:        kindOf(nftables.TypeICMP6Type),
	firewall.TypeInetProtocols: kindOf(nftables.TypeInetProto),
}

// kindOf joins types to the type of a key put together from them: six bits of
// its number for each, and whole words of each value.
func kindOf(types ...nftables.SetDatatype) datatype {
	if len(types) == 1 {
		return datatype{types[0].GetNFTMagic(), types[0].Bytes}
	}
	var joint datatype
	for _, t := range types {
		joint.magic = joint.magic<<nftables.SetConcatTypeBits | t.GetNFTMagic()
		joint.size += (t.Bytes + 3) &^ 3
	}
	return joint
}

func (b *batch) addSet(s firewall.Set) {
	flags := setFlags(s.Type)
	var data []byte
	if s.Type == firewall.TypeInterface {
		// Without it nft lists names as empty strings.
		data = userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, nativeOrder)
	}
	if s.Timeouts {
		flags |= unix.NFT_SET_TIMEOUT
	}
	data = userdata.AppendString(data, userdata.NFTNL_UDATA_SET_COMMENT, s.Comment)
	b.newSet(s.Name, flags, setKinds[s.Type], data, func(e *netlink.AttributeEncoder) {
		if s.Type.RuleFilled() {
			e.Uint64(unix.NFTA_SET_TIMEOUT, uint64(firewall.RememberedFor.Milliseconds()))
			e.Nested(unix.NFTA_SET_DESC, func(e *netlink.AttributeEncoder) error {
				e.Uint32(unix.NFTA_SET_DESC_SIZE, firewall.RememberedSize)
				return nil
			})
		}
	})
}

// setFlags are those of a set of ours, but for NFT_SET_TIMEOUT.
func setFlags(t firewall.SetType) uint32 {
	switch {
	case t.RuleFilled():
		return unix.NFT_SET_EVAL
	case t == firewall.TypeInterface:
		return 0
	default:
		return unix.NFT_SET_INTERVAL
	}
}

// nativeOrder is libnftnl's number for values in the machine's byte order.
const nativeOrder = 1

func (b *batch) newSet(name string, flags uint32, kind datatype, data []byte, more func(*netlink.AttributeEncoder)) {
	b.constants++
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_SET_TABLE, firewall.TableName)
		e.String(unix.NFTA_SET_NAME, name)
		e.Uint32(unix.NFTA_SET_FLAGS, flags)
		e.Uint32(unix.NFTA_SET_KEY_TYPE, kind.magic)
		e.Uint32(unix.NFTA_SET_KEY_LEN, kind.size)
		e.Uint32(unix.NFTA_SET_ID, b.constants)
		if len(data) > 0 {
			e.Bytes(unix.NFTA_SET_USERDATA, data)
		}
		more(e)
	})
}

func (b *batch) addCounter(c firewall.Counter) {
	b.add(unix.NFT_MSG_NEWOBJ, netlink.Create, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_OBJ_TABLE, firewall.TableName)
		e.String(unix.NFTA_OBJ_NAME, c.Name)
		e.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
		e.Nested(unix.NFTA_OBJ_DATA, func(e *netlink.AttributeEncoder) error {
			if c.Packets > 0 {
				e.Uint64(unix.NFTA_COUNTER_PACKETS, c.Packets)
				e.Uint64(unix.NFTA_COUNTER_BYTES, c.Bytes)
			}
			return nil
		})
		comment(e, objectUserdata, c.Comment)
	})
}

func (b *batch) removeObject(o firewall.Object) {
	b.add(unix.NFT_MSG_DELOBJ, 0, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_OBJ_TABLE, firewall.TableName)
		e.String(unix.NFTA_OBJ_NAME, o.Name)
		e.Uint32(unix.NFTA_OBJ_TYPE, o.Kind)
	})
}

// hookNumbers are the NF_INET_* numbers of the hooks.
var hookNumbers = map[string]uint32{
	"prerouting":  unix.NF_INET_PRE_ROUTING,
	"output":      unix.NF_INET_LOCAL_OUT,
	"postrouting": unix.NF_INET_POST_ROUTING,
}

func (b *batch) addChain(c firewall.Chain) {
	b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_CHAIN_TABLE, firewall.TableName)
		e.String(unix.NFTA_CHAIN_NAME, c.Name)
		if c.Hook != (firewall.Hook{}) {
			e.Nested(unix.NFTA_CHAIN_HOOK, func(e *netlink.AttributeEncoder) error {
				e.Uint32(unix.NFTA_HOOK_HOOKNUM, hookNumbers[c.Hook.Point])
				e.Int32(unix.NFTA_HOOK_PRIORITY, c.Hook.Priority)
				return nil
			})
			e.Uint32(unix.NFTA_CHAIN_POLICY, uint32(firewall.Accept))
			e.String(unix.NFTA_CHAIN_TYPE, chainType)
		}
		comment(e, chainUserdata, c.Comment)
	})
}

const chainType = "filter"

func (b *batch) remove(kind int, table, name uint16, value string) {
	b.add(kind, 0, func(e *netlink.AttributeEncoder) {
		e.String(table, firewall.TableName)
		e.String(name, value)
	})
}

// setRules flushes a chain and adds rules, which is one change for packets.
func (b *batch) setRules(c firewall.Chain) error {
	b.add(unix.NFT_MSG_DELRULE, 0, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_RULE_TABLE, firewall.TableName)
		e.String(unix.NFTA_RULE_CHAIN, c.Name)
	})
	for _, r := range c.Rules {
		if err := b.rule(c.Name, r); err != nil {
			return fmt.Errorf("rule %q of chain %s: %w", r, c.Name, err)
		}
	}
	return nil
}

func (b *batch) rule(chain string, r firewall.Rule) error {
	var exprs []expr.Any
	for _, instruction := range r.Code {
		if o, ok := instruction.(firewall.OneOf); ok {
			b.constantSet(o)
		}
		e, err := lower(instruction, b.constants)
		if err != nil {
			return err
		}
		exprs = append(exprs, e)
	}
	code, err := encodeExprs(b.family, exprs)
	if err != nil {
		return err
	}
	b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_RULE_TABLE, firewall.TableName)
		e.String(unix.NFTA_RULE_CHAIN, chain)
		e.Bytes(unix.NLA_F_NESTED|unix.NFTA_RULE_EXPRESSIONS, code)
		if r.Comment != "" {
			e.Bytes(unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, r.Comment))
		}
	})
	return nil
}

// constantSet makes the anonymous set of a look-up among constants.
func (b *batch) constantSet(o firewall.OneOf) {
	order := uint32(bigEndianOrder)
	if o.Of == firewall.TypeAddressKind {
		order = nativeOrder
	}
	b.newSet(anonymousSet, unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT, constantKinds[o.Of],
		userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, order), func(*netlink.AttributeEncoder) {})
	b.keys(unix.NFT_MSG_NEWSETELEM, netlink.Create, anonymousSet, b.constants, len(o.Values)/o.Width, func(list []byte, i int) []byte {
		return appendKey(list, key{value: []byte(o.Values[i*o.Width : (i+1)*o.Width])})
	})
}

const bigEndianOrder = 2
