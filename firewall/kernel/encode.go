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
		b.removeCounter(op.Name)
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
		e.Uint32(unix.NFTA_TABLE_FLAGS, 0)
		comment(e, tableUserdata, t.Comment)
	})
}

// comment attaches a comment the way nft does to tables, chains and counters.
func comment(e *netlink.AttributeEncoder, attribute uint16, text string) {
	if text != "" {
		e.Bytes(attribute, userdata.AppendString(nil, userdata.TypeComment, text))
	}
}

// setKinds gives nft's number and the size of each type of element.
var setKinds = map[firewall.SetType]nftables.SetDatatype{
	firewall.TypeIPv4:      nftables.TypeIPAddr,
	firewall.TypeIPv6:      nftables.TypeIP6Addr,
	firewall.TypeInterface: nftables.TypeIFName,
}

func (b *batch) addSet(s firewall.Set) {
	kind := setKinds[s.Type]
	flags, data := uint32(unix.NFT_SET_INTERVAL), []byte(nil)
	if s.Type == firewall.TypeInterface {
		// Without it nft lists names as empty strings.
		flags, data = 0, userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, nativeOrder)
	}
	if s.Timeouts {
		flags |= unix.NFT_SET_TIMEOUT
	}
	data = userdata.AppendString(data, userdata.NFTNL_UDATA_SET_COMMENT, s.Comment)
	b.newSet(s.Name, flags, kind, data)
}

// nativeOrder is libnftnl's number for values in the machine's byte order.
const nativeOrder = 1

func (b *batch) newSet(name string, flags uint32, kind nftables.SetDatatype, data []byte) {
	b.constants++
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_SET_TABLE, firewall.TableName)
		e.String(unix.NFTA_SET_NAME, name)
		e.Uint32(unix.NFTA_SET_FLAGS, flags)
		e.Uint32(unix.NFTA_SET_KEY_TYPE, kind.GetNFTMagic())
		e.Uint32(unix.NFTA_SET_KEY_LEN, kind.Bytes)
		e.Uint32(unix.NFTA_SET_ID, b.constants)
		if len(data) > 0 {
			e.Bytes(unix.NFTA_SET_USERDATA, data)
		}
	})
}

func (b *batch) addCounter(c firewall.Counter) {
	b.add(unix.NFT_MSG_NEWOBJ, netlink.Create, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_OBJ_TABLE, firewall.TableName)
		e.String(unix.NFTA_OBJ_NAME, c.Name)
		e.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
		e.Nested(unix.NFTA_OBJ_DATA, func(*netlink.AttributeEncoder) error { return nil })
		comment(e, objectUserdata, c.Comment)
	})
}

func (b *batch) removeCounter(name string) {
	b.add(unix.NFT_MSG_DELOBJ, 0, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_OBJ_TABLE, firewall.TableName)
		e.String(unix.NFTA_OBJ_NAME, name)
		e.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	})
}

// hookNumbers are the NF_INET_* numbers of the hooks.
var hookNumbers = map[string]uint32{"prerouting": unix.NF_INET_PRE_ROUTING}

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

// constantSet makes the anonymous set of a look-up among constants. Its type
// only matters to those who list it: ports are two bytes, address types four.
func (b *batch) constantSet(o firewall.OneOf) {
	kind, order := nftables.TypeInetService, uint32(bigEndianOrder)
	if o.Width == 4 {
		kind, order = nftables.TypeFIBAddr, nativeOrder
	}
	b.newSet(anonymousSet, unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT, kind,
		userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, order))
	b.keys(unix.NFT_MSG_NEWSETELEM, netlink.Create, anonymousSet, b.constants, len(o.Values)/o.Width, func(list []byte, i int) []byte {
		return appendKey(list, key{value: []byte(o.Values[i*o.Width : (i+1)*o.Width])})
	})
}

const bigEndianOrder = 2
