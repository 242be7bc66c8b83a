package firewall

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/cfwall/cfwall/ipranges"
)

// A match is a part of a rule: its nft text beside the instructions for it.
type match struct {
	text string
	code []Expr
}

// rule joins parts into a rule. The comment explains it in `nft list`.
func rule(comment string, parts ...match) Rule {
	all := join(parts)
	return Rule{Comment: comment, Text: all.text, Code: all.code}
}

func join(parts []match) match {
	var all match
	var texts []string
	for _, p := range parts {
		if p.text != "" {
			texts = append(texts, p.text)
		}
		all.code = append(all.code, p.code...)
	}
	all.text = strings.Join(texts, " ")
	return all
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
		append(p.is(), loadPort, oneOf(TypePort, values...)),
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

// toSet matches a destination address in a set of its family.
func (b builder) toSet(f addressFamily, set string) match {
	return match{
		fmt.Sprintf("%s daddr @%s", f.name, set),
		append(b.family(f), Payload{NetworkHeader, f.destination, f.size}, InSet{set}),
	}
}

// fromNetwork matches a source address in a network, toNetwork a destination.
func (b builder) fromNetwork(n netip.Prefix) match {
	return b.inNetwork("saddr", familyOf(n.Addr()).source, n)
}

func (b builder) toNetwork(n netip.Prefix) match {
	return b.inNetwork("daddr", familyOf(n.Addr()).destination, n)
}

// inNetwork loads no more of the address than it compares, as nft does.
func (b builder) inNetwork(field string, offset uint32, n netip.Prefix) match {
	f, address := familyOf(n.Addr()), string(n.Addr().AsSlice())
	if n.Bits() == 0 {
		return join(b.only(f))
	}
	text := fmt.Sprintf("%s %s %s", f.name, field, networkText(n))
	if whole := n.Bits() / 8; n.Bits()%8 == 0 {
		return match{text, append(b.family(f), Payload{NetworkHeader, offset, uint32(whole)}, Equal{Data: address[:whole]})}
	}
	bits := make([]byte, f.size)
	for i := range n.Bits() {
		bits[i/8] |= 0x80 >> (i % 8)
	}
	return match{text, append(b.family(f), Payload{NetworkHeader, offset, f.size}, And{string(bits)}, Equal{Data: address})}
}

func networkText(n netip.Prefix) string {
	if n.IsSingleIP() {
		return n.Addr().String()
	}
	return n.String()
}

type addressFamily struct {
	name   string // in rules
	number byte   // NFPROTO_IPV4, NFPROTO_IPV6
	suffix string // of sets and counters
	full   string
	// setType is that of addresses, serviceType that of services at addresses.
	setType, serviceType SetType
	// source and destination are the offsets of the addresses, and size is
	// their length (RFC 791, RFC 8200).
	source, destination, size uint32
}

var (
	ipv4 = addressFamily{"ip", 2, "4", "IPv4", TypeIPv4, TypeService4, 12, 16, 4}
	ipv6 = addressFamily{"ip6", 10, "6", "IPv6", TypeIPv6, TypeService6, 8, 24, 16}
)

// of returns the networks of the family in a list.
func (f addressFamily) of(l ipranges.List) []netip.Prefix {
	if f == ipv6 {
		return l.V6()
	}
	return l.V4()
}

func familyOf(a netip.Addr) addressFamily {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

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

// only matches the packets of a family; in a table of family ip it is nothing.
func (b builder) only(f addressFamily) []match {
	if !b.host.IPv6 {
		return nil
	}
	return []match{{"meta nfproto ipv" + f.suffix, b.family(f)}}
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

func toLoopback() match {
	return match{"oif lo", []Expr{Meta{MetaOutputIndex}, Equal{Data: native32(1)}}}
}

// InterfaceKey is an interface's name as the kernel keeps it: 16 bytes (IFNAMSIZ).
func InterfaceKey(name string) string {
	var key [16]byte
	copy(key[:], name)
	return string(key[:])
}

// An end of a packet's way through this host has interfaces of its own.
type wayEnd struct {
	keyword string // of the interface's name in rules
	key     MetaKey
}

var (
	wayIn  = wayEnd{"iifname", MetaInputName}
	wayOut = wayEnd{"oifname", MetaOutputName}
)

// trusted matches the interfaces that are named in full.
func (w wayEnd) trusted() match {
	return match{w.keyword + " @trusted_interfaces", []Expr{Meta{w.key}, InSet{"trusted_interfaces"}}}
}

// begins matches the interfaces whose names begin as a pattern does: "wg*".
func (w wayEnd) begins(pattern string) match {
	return match{fmt.Sprintf("%s %q", w.keyword, pattern), []Expr{Meta{w.key}, Equal{Data: strings.TrimSuffix(pattern, "*")}}}
}

// toOtherHosts matches packets that this host would pass on.
func toOtherHosts() match {
	own := oneOf(TypeAddressKind, native32(typeLocal), native32(typeBroadcast), native32(typeAnycast), native32(typeMulticast))
	own.Not = true
	return match{"fib daddr type != { local, broadcast, anycast, multicast }", []Expr{DestinationType{}, own}}
}

func count(counter string) match {
	return match{fmt.Sprintf("counter name %q", counter), []Expr{Count{counter}}}
}

// answering matches what answers a packet that went the other way before,
// beginning what goes the way of a connection's first packet.
func answering() match {
	return match{"ct direction reply", []Expr{Conntrack{ConntrackDirection}, Equal{Data: "\x01"}}}
}

func beginning() match {
	return match{"ct direction original", []Expr{Conntrack{ConntrackDirection}, Equal{Data: "\x00"}}}
}

// established matches what belongs to a conversation in which both sides have
// spoken, whoever was first.
func established() match {
	return match{"ct state established", []Expr{
		Conntrack{ConntrackState},
		And{native32(stateEstablished)},
		Equal{Not: true, Data: native32(0)},
	}}
}

// related matches errors about a known connection, and connections that a
// helper expects for another.
func related() match {
	return match{"ct state related", []Expr{
		Conntrack{ConntrackState},
		And{native32(stateRelated)},
		Equal{Not: true, Data: native32(0)},
	}}
}

// An icmpFamily is ICMP for one family, with the messages that every host needs.
type icmpFamily struct {
	addressFamily
	protocol
	constants ConstantType
	types     []byte
}

var (
	// Errors and echo requests (RFC 792, RFC 1812 section 4.3).
	icmp4 = icmpFamily{ipv4, protocol{"icmp", 1}, TypeICMP, []byte{3, 8, 11, 12}}
	// Errors and echo requests (RFC 4443), multicast listeners (RFC 2710, RFC
	// 3810) and neighbour discovery (RFC 4861): without them there is no IPv6.
	icmp6 = icmpFamily{ipv6, protocol{"icmpv6", 58}, TypeICMPv6, []byte{1, 2, 3, 4, 128, 130, 131, 132, 133, 134, 135, 136, 137, 143}}
)

// needed matches the messages that every host needs.
func (b builder) needed(i icmpFamily) match {
	var words, values []string
	for _, t := range i.types {
		words, values = append(words, fmt.Sprint(t)), append(values, string([]byte{t}))
	}
	code := append(b.family(i.addressFamily), i.is()...)
	return match{
		fmt.Sprintf("%s type { %s }", i.protocol.name, strings.Join(words, ", ")),
		append(code, Payload{TransportHeader, 0, 1}, oneOf(i.constants, values...)),
	}
}

// igmp matches the protocol of multicast listeners in IPv4 (RFC 3376).
func igmp() match { return match{"meta l4proto 2", protocol{"igmp", 2}.is()} }

// fromTo matches a pair of UDP ports in the packets of one family.
func (b builder) fromTo(f addressFamily, source, destination uint16) match {
	ports := match{
		fmt.Sprintf("udp sport %d udp dport %d", source, destination),
		append(udp.is(), Payload{TransportHeader, 0, 4}, Equal{Data: big16(source) + big16(destination)}),
	}
	return join(append(b.only(f), ports))
}

// sentBy matches what a user's socket sent. What the kernel itself sends for a
// connection that ends has none.
func sentBy(user uint32) match {
	return match{fmt.Sprintf("meta skuid %d", user), []Expr{Meta{MetaUser}, Equal{Data: native32(user)}}}
}

// rememberDestination notes where a packet wanted to go, rememberSource whence
// it came, with the port that it went to.
func (b builder) rememberDestination(f addressFamily, set string) match {
	return b.remember(f, set, "daddr", f.destination)
}

func (b builder) rememberSource(f addressFamily, set string) match {
	return b.remember(f, set, "saddr", f.source)
}

func (b builder) remember(f addressFamily, set, field string, offset uint32) match {
	word := (f.size + 3) / 4
	code := append([]Expr{Meta{MetaProtocol}, oneOf(TypeInetProtocols, "\x06", "\x11")}, b.family(f)...)
	return match{
		fmt.Sprintf("meta l4proto { 6, 17 } update @%s { %s %s . meta l4proto . th dport counter }", set, f.name, field),
		append(code,
			Payload{NetworkHeader, offset, f.size},
			Into{word, Meta{MetaProtocol}},
			Into{word + 1, loadPort},
			Remember{set}),
	}
}

// reset refuses a TCP segment so that the program hears of it at once.
func reset() match {
	return match{"reject with tcp reset", append(tcp.is(), Reject{Type: RejectReset})}
}

// prohibited refuses any packet with an ICMP error: administratively prohibited.
func (b builder) prohibited() match {
	if b.host.IPv6 {
		return match{"reject with icmpx admin-prohibited", []Expr{Reject{RejectICMPX, 3}}}
	}
	return match{"reject with icmp admin-prohibited", []Expr{Reject{RejectICMP, 13}}} // RFC 1812, section 5.2.7.1
}

func accept() match { return match{"accept", []Expr{Verdict{Kind: Accept}}} }

func drop() match { return match{"drop", []Expr{Verdict{Kind: Drop}}} }

func gotoChain(name string) match {
	return match{"goto " + name, []Expr{Verdict{Kind: Goto, Goto: name}}}
}
