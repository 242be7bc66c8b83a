package firewall

import (
	"fmt"
	"strings"
)

// A match is a part of a rule: its nft text beside the instructions for it.
type match struct {
	text string
	code []Expr
}

// rule joins parts into a rule. The comment explains it in `nft list`.
func rule(comment string, parts ...match) Rule {
	r := Rule{Comment: comment}
	var texts []string
	for _, p := range parts {
		texts = append(texts, p.text)
		r.Code = append(r.Code, p.code...)
	}
	r.Text = strings.Join(texts, " ")
	return r
}

type protocol struct {
	name   string
	number byte // IANA protocol number
}

var (
	tcp = protocol{"tcp", 6}
	udp = protocol{"udp", 17}
)

// is matches the transport protocol, wherever extension headers put it.
func (p protocol) is() []Expr {
	return []Expr{
		Meta{MetaProtocol},                    // [ meta load l4proto => reg 1 ]
		Equal{Data: string([]byte{p.number})}, // [ cmp eq reg 1 ]
	}
}

// loadPort loads the destination port.
var loadPort = Payload{TransportHeader, 2, 2} // [ payload load 2b @ transport header + 2 => reg 1 ]

// loadFlags loads the TCP flags.
var loadFlags = Payload{TransportHeader, 13, 1} // [ payload load 1b @ transport header + 13 => reg 1 ]

// toPorts matches single destination ports. Constants are a hash without
// intervals: an interval set that is new in a transaction is empty for the
// first packets.
func (p protocol) toPorts(ports []uint16) match {
	if len(ports) == 1 {
		return match{
			fmt.Sprintf("%s dport %d", p.name, ports[0]),
			append(p.is(), loadPort, Equal{Data: big16(ports[0])}),
		}
	}
	var words, values []string
	for _, port := range ports {
		words = append(words, fmt.Sprint(port))
		values = append(values, big16(port))
	}
	return match{
		fmt.Sprintf("%s dport { %s }", p.name, strings.Join(words, ", ")),
		append(p.is(), loadPort, oneOf(false, values...)),
	}
}

// toRange matches a range of destination ports with a comparison, see toPorts.
func (p protocol) toRange(r PortRange) match {
	return match{
		fmt.Sprintf("%s dport %s", p.name, r),
		append(p.is(), loadPort, AtLeast{big16(r.First)}, AtMost{big16(r.Last)}),
	}
}

// notOpening matches TCP segments other than SYN without ACK; it stands behind
// a match of TCP ports. A first fragment too short to hold the flags does not
// match, so it is guarded like a SYN.
func notOpening() match {
	return match{
		"tcp flags & (syn | ack) != syn",
		[]Expr{
			loadFlags,
			And{"\x12"},                    // [ bitwise reg 1 = ( reg 1 & 0x12 ) ]
			Equal{Not: true, Data: "\x02"}, // [ cmp neq reg 1 0x02 ]
		},
	}
}

// fromSet matches a source address in a set of its family.
func (b builder) fromSet(f addressFamily, set string) match {
	return match{
		fmt.Sprintf("%s saddr @%s", f.name, set),
		append(b.family(f), Payload{NetworkHeader, f.source, f.size}, InSet{set}),
	}
}

type addressFamily struct {
	name         string // in rules
	number       byte   // NFPROTO_IPV4, NFPROTO_IPV6
	suffix       string // of sets and counters
	full         string
	setType      SetType
	source, size uint32 // offset and length of the source address (RFC 791, RFC 8200)
}

var (
	ipv4 = addressFamily{"ip", 2, "4", "IPv4", TypeIPv4, 12, 4}
	ipv6 = addressFamily{"ip6", 10, "6", "IPv6", TypeIPv6, 8, 16}
)

// family matches the address family; in a table of family ip all packets are IPv4.
func (b builder) family(f addressFamily) []Expr {
	if !b.host.IPv6 {
		return nil
	}
	return []Expr{
		Meta{MetaFamily},                      // [ meta load nfproto => reg 1 ]
		Equal{Data: string([]byte{f.number})}, // [ cmp eq reg 1 ]
	}
}

// fragmented matches IPv6 packets that are a part of another, or say so.
func (b builder) fragmented() match {
	return match{"exthdr frag exists", append(b.family(ipv6),
		HasFragmentHeader{}, // [ exthdr load ipv6 1b @ 44 + 0 present => reg 1 ]
		Equal{Data: "\x01"}, // [ cmp eq reg 1 0x01 ]
	)}
}

// showsItsPort matches fragments whose fragment header (44) comes first and whose
// headers lead to a transport protocol. 255 is reserved (RFC 3692): nothing is
// compared with it in earnest, but a load alone does not make a match in nft.
func (b builder) showsItsPort() match {
	code := append(b.family(ipv6),
		Payload{NetworkHeader, 6, 1}, // [ payload load 1b @ network header + 6 => reg 1 ]
		Equal{Data: "\x2c"},          // [ cmp eq reg 1 44 ]
	)
	return match{
		"ip6 nexthdr 44 meta l4proto != 255",
		append(code, Meta{MetaProtocol}, Equal{Not: true, Data: "\xff"}),
	}
}

// fromLoopback matches the loopback interface, whose index is always 1.
func fromLoopback() match {
	return match{"iif lo", []Expr{Meta{MetaInputIndex}, Equal{Data: native32(1)}}}
}

// fromInterfaces matches the interfaces whose names begin as a pattern does: "wg*".
func fromInterfaces(pattern string) match {
	beginning := strings.TrimSuffix(pattern, "*")
	return match{fmt.Sprintf("iifname %q", pattern), []Expr{Meta{MetaInputName}, Equal{Data: beginning}}}
}

// InterfaceKey is an interface's name as the kernel keeps it: 16 bytes (IFNAMSIZ).
func InterfaceKey(name string) string {
	var key [16]byte
	copy(key[:], name)
	return string(key[:])
}

func fromTrustedInterface() match {
	return match{"iifname @trusted_interfaces", []Expr{Meta{MetaInputName}, InSet{"trusted_interfaces"}}}
}

// toOtherHosts matches packets that this host would pass on.
func toOtherHosts() match {
	return match{
		"fib daddr type != { local, broadcast, anycast, multicast }",
		[]Expr{DestinationType{}, oneOf(true, native32(typeLocal), native32(typeBroadcast), native32(typeAnycast), native32(typeMulticast))},
	}
}

func count(counter string) match {
	return match{fmt.Sprintf("counter name %q", counter), []Expr{Count{counter}}}
}

func accept() match { return match{"accept", []Expr{Verdict{Kind: Accept}}} }

func drop() match { return match{"drop", []Expr{Verdict{Kind: Drop}}} }

func gotoChain(name string) match {
	return match{"goto " + name, []Expr{Verdict{Kind: Goto, Goto: name}}}
}
