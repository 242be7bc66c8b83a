package firewall

import (
	"encoding/binary"
	"slices"
	"strings"
)

// An Expr is one instruction of the nf_tables virtual machine. Loads put a
// value into register 1; comparisons and look-ups end the rule unless the
// register satisfies them. All Exprs are comparable with ==, which is how a
// rule read from the kernel is compared with the rule that we want.
//
// The kinds are those of the kernel (include/uapi/linux/netfilter/nf_tables.h)
// as far as the ruleset needs them.
type Expr any

// Meta loads a property of the packet that is not in its bytes.
type Meta struct{ Key MetaKey }

// MetaKey numbers the properties as the kernel does (enum nft_meta_keys).
type MetaKey uint32

// The properties that rules look at.
const (
	MetaInputIndex  MetaKey = 4  // iif: index of the input interface, native-endian
	MetaOutputIndex MetaKey = 5  // oif: index of the output interface, native-endian
	MetaInputName   MetaKey = 6  // iifname: its name, padded with NUL to 16 bytes
	MetaOutputName  MetaKey = 7  // oifname: its name, padded with NUL to 16 bytes
	MetaUser        MetaKey = 10 // skuid: number of the user whose socket sent it, native-endian
	MetaFamily      MetaKey = 15 // nfproto: one byte
	MetaProtocol    MetaKey = 16 // l4proto: one byte, behind IPv6 extension headers too
)

// Payload loads bytes of a header.
type Payload struct {
	Base        PayloadBase
	Offset, Len uint32
}

// PayloadBase numbers the headers as the kernel does (enum nft_payload_bases).
type PayloadBase uint32

// The headers that rules look at.
const (
	NetworkHeader   PayloadBase = 1
	TransportHeader PayloadBase = 2
)

// Conntrack loads what connection tracking knows of the packet, and has the
// kernel track connections for as long as a rule has it.
type Conntrack struct{ Key ConntrackKey }

// ConntrackKey numbers the properties as the kernel does (enum nft_ct_keys).
type ConntrackKey uint32

// The properties that rules look at.
const (
	ConntrackState     ConntrackKey = 0 // a bit for each state, native-endian
	ConntrackDirection ConntrackKey = 1 // one byte: 0 as the connection began, 1 the answers
)

// The bits of states (NF_CT_STATE_BIT). Related is what belongs to another
// connection: ICMP errors, and what helpers expect.
const (
	stateEstablished = 2
	stateRelated     = 4
)

// Into loads into another register than the first, counted in words of four
// bytes from it: so a key is put together from several values.
type Into struct {
	Word uint32
	Load Expr
}

// Remember adds the key to a set that rules fill, or gives the entry that it
// has its full time again; the entry counts packets.
type Remember struct{ Set string }

// Reject tells the sender that the packet is refused, and ends the rule.
type Reject struct {
	Type RejectType
	Code uint8 // of the ICMP message
}

// RejectType numbers the answers as the kernel does (enum nft_reject_types).
type RejectType uint32

// The answers that rules give.
const (
	RejectICMP  RejectType = 0 // of the table's own family
	RejectReset RejectType = 1 // a TCP segment with RST
	RejectICMPX RejectType = 2 // of the packet's family, in tables of both
)

// HasFragmentHeader loads one byte: 1 where an IPv6 packet has a fragment header.
type HasFragmentHeader struct{}

// DestinationType loads what kind of address the destination is to this host:
// a native-endian uint32 (fib daddr type; enum in linux/rtnetlink.h).
type DestinationType struct{}

// The kinds of destination that concern the host itself.
const (
	typeLocal     = 2
	typeBroadcast = 3
	typeAnycast   = 4
	typeMulticast = 5
)

// And masks the register; the mask is as long as the value.
type And struct{ Mask string }

// Equal compares the register with bytes.
type Equal struct {
	Not  bool
	Data string
}

// AtLeast compares the register with a lower bound, which is included.
type AtLeast struct{ Data string }

// AtMost compares the register with an upper bound, which is included.
type AtMost struct{ Data string }

// InSet looks the register up in a named set.
type InSet struct{ Name string }

// OneOf looks the register up among constants (an anonymous set). Values holds
// them sorted and joined; each is Width bytes long. Of is their type, which
// matters to those who list the rules.
type OneOf struct {
	Not    bool
	Of     ConstantType
	Width  int
	Values string
}

// ConstantType is the type of constants, in nft's words.
type ConstantType string

// The types of our constants.
const (
	TypePort          ConstantType = "inet_service"
	TypeAddressKind   ConstantType = "fib_addrtype"
	TypeICMP          ConstantType = "icmp_type"
	TypeICMPv6        ConstantType = "icmpv6_type"
	TypeInetProtocols ConstantType = "inet_proto"
)

// Count counts the packet in a named counter.
type Count struct{ Name string }

// Verdict ends the rule.
type Verdict struct {
	Kind VerdictKind
	Goto string // the chain, for Goto
}

// VerdictKind numbers the verdicts as the kernel does (NF_ACCEPT, NFT_GOTO).
type VerdictKind int32

// The verdicts that rules use.
const (
	Drop   VerdictKind = 0
	Accept VerdictKind = 1
	Goto   VerdictKind = -4
)

// Unknown is an instruction that this version neither writes nor understands;
// it equals no instruction that Build makes. Detail tells one from another.
type Unknown struct{ Name, Detail string }

func native32(v uint32) string { return string(binary.NativeEndian.AppendUint32(nil, v)) }

func big16(v uint16) string { return string(binary.BigEndian.AppendUint16(nil, v)) }

// oneOf makes a look-up among constants of equal length.
func oneOf(of ConstantType, values ...string) OneOf {
	sorted := slices.Sorted(slices.Values(values))
	return OneOf{Of: of, Width: len(sorted[0]), Values: strings.Join(sorted, "")}
}
