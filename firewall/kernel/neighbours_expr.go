package kernel

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall/neighbours"
)

// instructions decodes the expressions of somebody else's rule.
func instructions(list []byte) (code []neighbours.Instruction) {
	var broken bool
	for _, b := range eachAttribute(list, &broken) {
		f := parseFields(b)
		name := f.text(unix.NFTA_EXPR_NAME)
		data := parseFields(f.bytes(unix.NFTA_EXPR_DATA))
		i := instruction(name, &data)
		if i == nil || data.broken || f.broken {
			i = neighbours.Unknown{Name: name}
		}
		code = append(code, i)
	}
	if broken {
		code = append(code, neighbours.Unknown{Name: "a broken expression"})
	}
	return code
}

// passive are the expressions that change nothing which rules look at.
var passive = map[string]bool{"counter": true, "log": true, "last": true, "dup": true, "flow_offload": true, "secmark": true}

// guesses are those that load what only the kernel knows, with the attribute
// that says where to: NFTA_HASH_DREG and so on.
var guesses = map[string]uint16{
	"hash": unix.NFTA_HASH_DREG, "numgen": unix.NFTA_NG_DREG, "rt": unix.NFTA_RT_DREG,
	"osf": 1, "xfrm": 1, "tunnel": 2,
}

func instruction(name string, f *fields) neighbours.Instruction {
	if passive[name] {
		return neighbours.Nothing{}
	}
	if to, ok := guesses[name]; ok {
		return neighbours.Guess{Name: name, To: registerOf(f, to)}
	}
	for _, decode := range []func(string, *fields) neighbours.Instruction{loading, computing, looking, ending} {
		if i := decode(name, f); i != nil {
			return i
		}
	}
	return nil
}

func registerOf(f *fields, attribute uint16) neighbours.Register {
	return neighbours.Register(f.number(attribute))
}

// loading decodes what reads and changes the packet and its flow.
func loading(name string, f *fields) neighbours.Instruction {
	switch name {
	case "meta":
		if from := registerOf(f, unix.NFTA_META_SREG); from != 0 {
			return neighbours.SetMeta{Key: f.number(unix.NFTA_META_KEY), From: from}
		}
		return neighbours.Meta{Key: f.number(unix.NFTA_META_KEY), To: registerOf(f, unix.NFTA_META_DREG)}
	case "payload":
		base, offset, size := f.number(unix.NFTA_PAYLOAD_BASE), f.number(unix.NFTA_PAYLOAD_OFFSET), f.number(unix.NFTA_PAYLOAD_LEN)
		if registerOf(f, unix.NFTA_PAYLOAD_SREG) != 0 {
			return neighbours.SetPayload{Base: base, Offset: offset, Size: size}
		}
		return neighbours.Payload{Base: base, Offset: offset, Size: size, To: registerOf(f, unix.NFTA_PAYLOAD_DREG)}
	case "ct":
		return tracking(f)
	case "exthdr":
		to := registerOf(f, unix.NFTA_EXTHDR_DREG)
		if to == 0 { // it changes or removes an option
			return neighbours.Nothing{}
		}
		present := f.number(unix.NFTA_EXTHDR_FLAGS)&unix.NFT_EXTHDR_F_PRESENT != 0
		return neighbours.Option{Op: f.number(unix.NFTA_EXTHDR_OP), Present: present, To: to}
	case "socket":
		const key, to, level = 1, 2, 3 // NFTA_SOCKET_*
		return neighbours.Socket{Key: f.number(key), To: registerOf(f, to), Level: f.number(level)}
	case "fib":
		return neighbours.FIB{Result: f.number(unix.NFTA_FIB_RESULT), Flags: f.number(unix.NFTA_FIB_FLAGS), To: registerOf(f, unix.NFTA_FIB_DREG)}
	}
	return nil
}

func tracking(f *fields) neighbours.Instruction {
	key := f.number(unix.NFTA_CT_KEY)
	if from := registerOf(f, unix.NFTA_CT_SREG); from != 0 {
		return neighbours.SetCT{Key: key, From: from}
	}
	ct := neighbours.CT{Key: key, To: registerOf(f, unix.NFTA_CT_DREG)}
	if d := f.fixed(unix.NFTA_CT_DIRECTION, 1); d != nil {
		ct.Direction = &d[0]
	}
	return ct
}

// computing decodes what works on registers.
func computing(name string, f *fields) neighbours.Instruction {
	switch name {
	case "cmp":
		return neighbours.Compare{Op: f.number(unix.NFTA_CMP_OP), From: registerOf(f, unix.NFTA_CMP_SREG), Data: []byte(f.value(unix.NFTA_CMP_DATA))}
	case "range":
		return neighbours.Range{
			Not: f.number(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ, From: registerOf(f, unix.NFTA_RANGE_SREG),
			First: []byte(f.value(unix.NFTA_RANGE_FROM_DATA)), Last: []byte(f.value(unix.NFTA_RANGE_TO_DATA)),
		}
	case "bitwise":
		return bitwise(f)
	case "byteorder":
		return neighbours.Byteorder{
			From: registerOf(f, unix.NFTA_BYTEORDER_SREG), To: registerOf(f, unix.NFTA_BYTEORDER_DREG),
			Size: int(f.number(unix.NFTA_BYTEORDER_LEN)), Word: int(f.number(unix.NFTA_BYTEORDER_SIZE)),
		}
	}
	return nil
}

func bitwise(f *fields) neighbours.Instruction {
	const opAttribute, dataAttribute = 6, 7     // NFTA_BITWISE_OP, _DATA
	const mask, shiftLeft, shiftRight = 0, 1, 2 // NFT_BITWISE_*
	const shiftSize = 4                         // a number of bits
	from, to := registerOf(f, unix.NFTA_BITWISE_SREG), registerOf(f, unix.NFTA_BITWISE_DREG)
	size := int(f.number(unix.NFTA_BITWISE_LEN))
	switch op := f.number(opAttribute); op {
	case mask:
		return neighbours.Bitwise{
			From: from, To: to, Size: size,
			Mask: []byte(f.value(unix.NFTA_BITWISE_MASK)), Xor: []byte(f.value(unix.NFTA_BITWISE_XOR)),
		}
	case shiftLeft, shiftRight:
		by := parseFields(f.bytes(dataAttribute))
		if bits := by.fixed(unix.NFTA_DATA_VALUE, shiftSize); bits != nil {
			return neighbours.Shift{From: from, To: to, Size: size, Right: op == shiftRight, By: binary.NativeEndian.Uint32(bits)}
		}
	}
	return neighbours.Guess{Name: "a computed value", To: to}
}

// looking decodes what asks sets, limits and the other things with a state.
func looking(name string, f *fields) neighbours.Instruction {
	switch name {
	case "lookup":
		_, maps := f.values[unix.NFTA_LOOKUP_DREG]
		return neighbours.Lookup{
			Set: f.text(unix.NFTA_LOOKUP_SET), From: registerOf(f, unix.NFTA_LOOKUP_SREG),
			Not:  f.number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0,
			Maps: maps, To: registerOf(f, unix.NFTA_LOOKUP_DREG),
		}
	case "dynset":
		const expressions, deletes = 10, 2 // NFTA_DYNSET_EXPRESSIONS, NFT_DYNSET_OP_DELETE
		plain := f.bytes(unix.NFTA_DYNSET_EXPR) == nil && f.bytes(expressions) == nil && f.number(unix.NFTA_DYNSET_OP) != deletes
		return neighbours.Update{Set: f.text(unix.NFTA_DYNSET_SET_NAME), Plain: plain}
	case "limit", "connlimit":
		return neighbours.Sometimes{}
	case "quota":
		return neighbours.Quota{
			Over:     f.number(unix.NFTA_QUOTA_FLAGS)&unix.NFT_QUOTA_F_INV != 0,
			Exceeded: f.number64(unix.NFTA_QUOTA_CONSUMED) >= f.number64(unix.NFTA_QUOTA_BYTES),
		}
	case "objref":
		return object(f)
	case "match":
		return neighbours.Match{Name: f.text(unix.NFTA_MATCH_NAME), Revision: f.number(unix.NFTA_MATCH_REV), Info: f.bytes(unix.NFTA_MATCH_INFO)}
	}
	return nil
}

func object(f *fields) neighbours.Instruction {
	if f.bytes(unix.NFTA_OBJREF_SET_NAME) != nil {
		return neighbours.Sometimes{}
	}
	switch f.number(unix.NFTA_OBJREF_IMM_TYPE) {
	case unix.NFT_OBJECT_LIMIT, unix.NFT_OBJECT_CONNLIMIT, unix.NFT_OBJECT_QUOTA:
		return neighbours.Sometimes{}
	case unix.NFT_OBJECT_SYNPROXY:
		return nil
	}
	return neighbours.Nothing{}
}

// ending decodes what ends a rule.
func ending(name string, f *fields) neighbours.Instruction {
	switch name {
	case "immediate":
		data := parseFields(f.bytes(unix.NFTA_IMMEDIATE_DATA))
		if to := registerOf(f, unix.NFTA_IMMEDIATE_DREG); to != unix.NFT_REG_VERDICT {
			return neighbours.Immediate{To: to, Data: data.bytes(unix.NFTA_DATA_VALUE)}
		}
		return neighbours.Decide{Verdict: verdict(data.bytes(unix.NFTA_DATA_VERDICT))}
	case "reject":
		return neighbours.Decide{Verdict: neighbours.Verdict{Rejects: true}}
	case "nat":
		return neighbours.NAT{Destination: f.number(unix.NFTA_NAT_TYPE) == unix.NFT_NAT_DNAT, Family: byte(f.number(unix.NFTA_NAT_FAMILY))}
	case "masq":
		return neighbours.NAT{}
	case "redir":
		return neighbours.NAT{Destination: true}
	case "queue":
		return neighbours.Queue{}
	case "notrack":
		return neighbours.Notrack{}
	case "fwd":
		return neighbours.Decide{Verdict: neighbours.Stolen}
	case "target":
		return neighbours.Target{Name: f.text(unix.NFTA_TARGET_NAME), Revision: f.number(unix.NFTA_TARGET_REV), Info: f.bytes(unix.NFTA_TARGET_INFO)}
	}
	return nil
}

func verdict(data []byte) neighbours.Verdict {
	f := parseFields(data)
	return neighbours.Verdict{Code: int32(f.number(unix.NFTA_VERDICT_CODE)), Chain: f.text(unix.NFTA_VERDICT_CHAIN)}
}
