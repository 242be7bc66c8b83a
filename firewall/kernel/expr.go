package kernel

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

// register is the one that every instruction of ours works on: 16 bytes wide.
const register = unix.NFT_REG_1

// lower turns an instruction into the library's expression. A set of constants
// is given by the id it has within the transaction.
func lower(e firewall.Expr, constants uint32) (expr.Any, error) {
	switch e := e.(type) {
	case firewall.Meta:
		return &expr.Meta{Key: expr.MetaKey(e.Key), Register: register}, nil
	case firewall.Payload:
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBase(e.Base), Offset: e.Offset, Len: e.Len}, nil
	case firewall.Conntrack:
		return &expr.Ct{Key: expr.CtKey(e.Key), Register: register}, nil
	case firewall.Into:
		return lowerInto(e)
	case firewall.Remember:
		return &expr.Dynset{SrcRegKey: register, SetName: e.Set, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{&expr.Counter{}}}, nil
	case firewall.Reject:
		return &expr.Reject{Type: uint32(e.Type), Code: e.Code}, nil
	case firewall.HasFragmentHeader:
		return &expr.Exthdr{DestRegister: register, Op: expr.ExthdrOpIpv6, Type: unix.IPPROTO_FRAGMENT, Len: 1, Flags: unix.NFT_EXTHDR_F_PRESENT}, nil
	case firewall.DestinationType:
		return &expr.Fib{Register: register, ResultADDRTYPE: true, FlagDADDR: true}, nil
	case firewall.And:
		return &expr.Bitwise{
			SourceRegister: register, DestRegister: register,
			Len: uint32(len(e.Mask)), Mask: []byte(e.Mask), Xor: make([]byte, len(e.Mask)),
		}, nil
	case firewall.Equal:
		op := expr.CmpOpEq
		if e.Not {
			op = expr.CmpOpNeq
		}
		return &expr.Cmp{Op: op, Register: register, Data: []byte(e.Data)}, nil
	case firewall.AtLeast:
		return &expr.Cmp{Op: expr.CmpOpGte, Register: register, Data: []byte(e.Data)}, nil
	case firewall.AtMost:
		return &expr.Cmp{Op: expr.CmpOpLte, Register: register, Data: []byte(e.Data)}, nil
	case firewall.InSet:
		return &expr.Lookup{SourceRegister: register, SetName: e.Name}, nil
	case firewall.OneOf:
		return &expr.Lookup{SourceRegister: register, SetName: anonymousSet, SetID: constants, Invert: e.Not}, nil
	case firewall.Count:
		return &expr.Objref{Type: int(nftables.ObjTypeCounter), Name: e.Name}, nil
	case firewall.Verdict:
		return &expr.Verdict{Kind: expr.VerdictKind(e.Kind), Chain: e.Goto}, nil
	default:
		return nil, fmt.Errorf("kernel: no way to write instruction %T", e)
	}
}

func lowerInto(into firewall.Into) (expr.Any, error) {
	load, err := lower(into.Load, 0)
	switch load := load.(type) {
	case *expr.Meta:
		load.Register = registerAt(into.Word)
	case *expr.Payload:
		load.DestRegister = registerAt(into.Word)
	default:
		return nil, fmt.Errorf("kernel: no way to load %T into word %d: %w", into.Load, into.Word, err)
	}
	return load, nil
}

// registerAt numbers the register that begins at a word, as the kernel lists
// it: one of 16 bytes where one begins there, else one of four.
func registerAt(word uint32) uint32 {
	if word%4 == 0 {
		return unix.NFT_REG_1 + word/4
	}
	return unix.NFT_REG32_00 + word
}

// wordAt is the reverse of registerAt.
func wordAt(register uint32) (word uint32, ok bool) {
	if register >= unix.NFT_REG32_00 {
		return register - unix.NFT_REG32_00, true
	}
	return (register - unix.NFT_REG_1) * 4, register >= unix.NFT_REG_1
}

// into wraps a load by the register that it goes to.
func into(f *fields, attribute uint16, load firewall.Expr) firewall.Expr {
	word, ok := wordAt(f.number(attribute))
	switch {
	case !ok:
		return nil
	case word == 0:
		return load
	default:
		return firewall.Into{Word: word, Load: load}
	}
}

// raise is the reverse of lower, for one expression as the kernel lists it.
// Whatever it does not understand to the last attribute becomes Unknown.
func raise(name string, data []byte, constants map[string]anonymous) firewall.Expr {
	f := parseFields(data)
	e := raiseKnown(name, &f, constants)
	if e == nil || !f.done() {
		return firewall.Unknown{Name: name, Detail: string(data)}
	}
	return e
}

func raiseKnown(name string, f *fields, constants map[string]anonymous) firewall.Expr {
	switch name {
	case "meta":
		return into(f, unix.NFTA_META_DREG, firewall.Meta{Key: firewall.MetaKey(f.number(unix.NFTA_META_KEY))})
	case "payload":
		return into(f, unix.NFTA_PAYLOAD_DREG, firewall.Payload{
			Base:   firewall.PayloadBase(f.number(unix.NFTA_PAYLOAD_BASE)),
			Offset: f.number(unix.NFTA_PAYLOAD_OFFSET), Len: f.number(unix.NFTA_PAYLOAD_LEN),
		})
	case "ct":
		if f.register(unix.NFTA_CT_DREG) {
			return firewall.Conntrack{Key: firewall.ConntrackKey(f.number(unix.NFTA_CT_KEY))}
		}
	case "dynset":
		return raiseRemember(f)
	case "reject":
		r := firewall.Reject{Type: firewall.RejectType(f.number(unix.NFTA_REJECT_TYPE))}
		if code := f.bytes(unix.NFTA_REJECT_ICMP_CODE); len(code) == 1 {
			r.Code = code[0]
		}
		return r
	case "exthdr":
		header := f.bytes(unix.NFTA_EXTHDR_TYPE)
		if f.register(unix.NFTA_EXTHDR_DREG) && string(header) == string([]byte{unix.IPPROTO_FRAGMENT}) &&
			f.number(unix.NFTA_EXTHDR_LEN) == 1 && f.number(unix.NFTA_EXTHDR_FLAGS) == unix.NFT_EXTHDR_F_PRESENT {
			return firewall.HasFragmentHeader{}
		}
	case "fib":
		if f.register(unix.NFTA_FIB_DREG) && f.number(unix.NFTA_FIB_RESULT) == unix.NFT_FIB_RESULT_ADDRTYPE &&
			f.number(unix.NFTA_FIB_FLAGS) == unix.NFTA_FIB_F_DADDR {
			return firewall.DestinationType{}
		}
	case "bitwise":
		return raiseAnd(f)
	case "cmp":
		return raiseComparison(f)
	case "lookup":
		return raiseLookup(f, constants)
	case "objref":
		if f.number(unix.NFTA_OBJREF_IMM_TYPE) == unix.NFT_OBJECT_COUNTER {
			return firewall.Count{Name: f.text(unix.NFTA_OBJREF_IMM_NAME)}
		}
	case "immediate":
		return raiseVerdict(f)
	}
	return nil
}

// raiseRemember takes an entry that counts, as lower makes it, and no other.
func raiseRemember(f *fields) firewall.Expr {
	counter := parseFields(f.bytes(unix.NFTA_DYNSET_EXPR))
	counts := counter.text(unix.NFTA_EXPR_NAME) == "counter"
	counter.bytes(unix.NFTA_EXPR_DATA) // of the template: what it counted is in the entries
	if !f.register(unix.NFTA_DYNSET_SREG_KEY) || f.number(unix.NFTA_DYNSET_OP) != unix.NFT_DYNSET_OP_UPDATE || !counts || !counter.done() {
		return nil
	}
	return firewall.Remember{Set: f.text(unix.NFTA_DYNSET_SET_NAME)}
}

func raiseComparison(f *fields) firewall.Expr {
	if !f.register(unix.NFTA_CMP_SREG) {
		return nil
	}
	op, data := f.number(unix.NFTA_CMP_OP), f.value(unix.NFTA_CMP_DATA)
	switch op {
	case unix.NFT_CMP_EQ, unix.NFT_CMP_NEQ:
		return firewall.Equal{Not: op == unix.NFT_CMP_NEQ, Data: data}
	case unix.NFT_CMP_GTE:
		return firewall.AtLeast{Data: data}
	case unix.NFT_CMP_LTE:
		return firewall.AtMost{Data: data}
	default:
		return nil
	}
}

func raiseAnd(f *fields) firewall.Expr {
	if !f.register(unix.NFTA_BITWISE_SREG) || !f.register(unix.NFTA_BITWISE_DREG) {
		return nil
	}
	mask, xor := f.value(unix.NFTA_BITWISE_MASK), f.value(unix.NFTA_BITWISE_XOR)
	if int(f.number(unix.NFTA_BITWISE_LEN)) != len(mask) || xor != string(make([]byte, len(mask))) {
		return nil
	}
	return firewall.And{Mask: mask}
}

func raiseLookup(f *fields, constants map[string]anonymous) firewall.Expr {
	if !f.register(unix.NFTA_LOOKUP_SREG) {
		return nil
	}
	name, flags := f.text(unix.NFTA_LOOKUP_SET), f.number(unix.NFTA_LOOKUP_FLAGS)
	set, isAnonymous := constants[name]
	switch {
	case isAnonymous && flags&^unix.NFT_LOOKUP_F_INV == 0 && set.plain:
		return firewall.OneOf{Not: flags != 0, Of: set.of, Width: set.width, Values: set.values}
	case !isAnonymous && flags == 0:
		return firewall.InSet{Name: name}
	default:
		return nil
	}
}

func raiseVerdict(f *fields) firewall.Expr {
	if f.number(unix.NFTA_IMMEDIATE_DREG) != unix.NFT_REG_VERDICT {
		return nil
	}
	data := parseFields(f.bytes(unix.NFTA_IMMEDIATE_DATA))
	verdict := parseFields(data.bytes(unix.NFTA_DATA_VERDICT))
	v := firewall.Verdict{
		Kind: firewall.VerdictKind(int32(verdict.number(unix.NFTA_VERDICT_CODE))),
		Goto: verdict.text(unix.NFTA_VERDICT_CHAIN),
	}
	if !data.done() || !verdict.done() {
		return nil
	}
	return v
}

// encodeRule encodes the expressions of a rule, each as a list element.
func encodeExprs(family byte, exprs []expr.Any) ([]byte, error) {
	var list []netlink.Attribute
	for _, e := range exprs {
		b, err := expr.Marshal(family, e)
		if err != nil {
			return nil, fmt.Errorf("encoding %T: %w", e, err)
		}
		list = append(list, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: b})
	}
	return netlink.MarshalAttributes(list)
}
