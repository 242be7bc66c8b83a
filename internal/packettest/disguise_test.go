package packettest

import (
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

// A disguise is a way to dress a packet to a guarded port, in the hope that the
// firewall does not see it for what it is and the host does.
type disguise struct {
	name    string
	family  int    // 4 or 6; 0 for both
	network string // "tcp" or "udp"; "" for both
	// from and to are used instead of the caller's address and the host's.
	from, to netip.Addr
	segment  segment // TCP; the zero one is a SYN
	data     int     // bytes behind the TCP header; a datagram has a few at least
	dress    dressing
	tags     []byte           // VLAN tags and the true type, as in the frame
	mac      net.HardwareAddr // of the frame; nil for the host's
	// refused says why Linux itself takes it from nobody. Where it is empty
	// it must get through without rules: what is taken from nobody proves
	// nothing about rules. That is so on grounds that have the trait which
	// it needs and not the one which it fails with.
	refused      string
	needs, fails trait
	// noOpening marks what opens no connection. To a port from 1024 on it may
	// be an answer to one that was opened here or behind here, and passes.
	noOpening bool
}

// A trait of a ground.
type trait string

const (
	tracking trait = "tracks connections to itself"
	forwards trait = "forwards"
)

// What the web host has besides the addresses of every site.
var (
	local4  = netip.MustParseAddr("198.18.9.1")
	local6  = netip.MustParseAddr("2001:db8:9::1")
	nearby6 = netip.MustParseAddr("fe80::2")
	group4  = netip.MustParseAddr("224.0.0.251")
	group6  = netip.MustParseAddr("ff02::fb")
)

var (
	everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	groupMAC  = net.HardwareAddr{0x01, 0x00, 0x5e, 0x00, 0x00, 0xfb}
)

// Why Linux refuses.
const (
	noHandshake  = "Linux answers a SYN only where nothing contradicts it"
	noTCPToMany  = "Linux accepts TCP only for one of its own addresses and in a frame for itself"
	notASource   = "Linux takes it for no source address"
	overlap      = "Linux keeps what came first, or drops all (RFC 5722)"
	headersFirst = "Linux wants all headers in the first fragment (RFC 8200, 4.5; since 5.10)"
	oneFragment  = "Linux takes one fragment header for each packet"
	wrongPlace   = "Linux takes hop-by-hop options only next to the IPv6 header"
	noSuchVLAN   = "the host is not in that VLAN"
	unsigned     = "Linux has no key to check the signature with"
	shorter      = "Linux drops fragments that are no multiple of 8 bytes"
	lie          = "Linux sees a lie, but some versions do not where connections are tracked"
)

func disguises() []disguise {
	return slices.Concat(plain, bySegment, bySource, byDestination, byFrame, byOptions, byFragments, byExtensions)
}

var plain = []disguise{{name: "none"}}

var bySegment = []disguise{
	{name: "SYN with data", network: "tcp", data: 100},
	{name: "SYN, ECE, CWR", network: "tcp", segment: segment{flags: syn | ece | cwr}},
	{name: "SYN, PSH, URG", network: "tcp", segment: segment{flags: syn | psh | urg}},
	{name: "SYN with the reserved bits", network: "tcp", segment: segment{flags: syn, reserved: 0x0f}},
	{name: "SYN with all options that fit", network: "tcp", segment: segment{flags: syn, options: slices.Repeat([]byte{1}, 40)}},
	{name: "SYN with a fast open cookie and data", network: "tcp", segment: segment{flags: syn, options: []byte{34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1}}, data: 64},
	{name: "SYN, FIN", network: "tcp", segment: segment{flags: syn | fin}, refused: noHandshake},
	{name: "SYN, RST", network: "tcp", segment: segment{flags: syn | rst}, refused: noHandshake},
	{name: "every flag but ACK", network: "tcp", segment: segment{flags: 0xff &^ ack}, refused: noHandshake},
	{name: "ACK", network: "tcp", segment: segment{flags: ack}, noOpening: true},
	{name: "SYN, ACK", network: "tcp", segment: segment{flags: syn | ack}, noOpening: true},
	{name: "a large datagram", network: "udp", data: 1400},
}

var bySource = []disguise{
	{name: "from 127.0.0.1", family: 4, from: addr("127.0.0.1")},
	{name: "from 127.1.2.3", family: 4, from: addr("127.1.2.3")},
	{name: "from the host itself", family: 4, from: lab.Web4},
	{name: "from another address of the host", family: 4, from: local4},
	{name: "from a neighbour", family: 4, from: addr("192.0.2.77")},
	{name: "from a link-local address", family: 4, from: addr("169.254.7.7")},
	{name: "from 0.0.0.0", family: 4, from: addr("0.0.0.0"), refused: notASource},
	{name: "from 255.255.255.255", family: 4, from: addr("255.255.255.255"), refused: notASource},
	{name: "from a group", family: 4, from: group4, refused: notASource},
	{name: "from ::1", family: 6, from: addr("::1"), refused: notASource},
	{name: "from the edge's IPv4 address, mapped", family: 6, from: addr("::ffff:104.16.0.1"), refused: notASource},
	{name: "from 127.0.0.1, mapped", family: 6, from: addr("::ffff:127.0.0.1"), refused: notASource},
	{name: "from the edge's IPv4 address, compatible", family: 6, from: addr("::104.16.0.1")},
	{name: "from the edge's IPv4 address, by NAT64", family: 6, from: addr("64:ff9b::104.16.0.1")},
	{name: "from the edge's IPv4 address, by 6to4", family: 6, from: addr("2002:6810:1::1")},
	{name: "from the host itself", family: 6, from: lab.Web6},
	{name: "from another address of the host", family: 6, from: local6},
	{name: "from a neighbour", family: 6, from: addr("2001:db8::77")},
	{name: "from a link-local address", family: 6, from: addr("fe80::bad")},
	{name: "from ::", family: 6, network: "udp", from: addr("::")},
	{name: "from a group", family: 6, from: group6, refused: notASource},
}

var byDestination = []disguise{
	{name: "to another address of the host", family: 4, to: local4},
	{name: "to 127.0.0.1", family: 4, to: addr("127.0.0.1")},
	{name: "to 127.0.0.53 from 127.0.0.1", family: 4, from: addr("127.0.0.1"), to: addr("127.0.0.53")},
	{name: "to everybody", family: 4, network: "udp", to: addr("255.255.255.255"), mac: everybody},
	{name: "to everybody in a frame for the host", family: 4, network: "udp", to: addr("255.255.255.255")},
	{name: "to everybody from nobody", family: 4, network: "udp", from: addr("0.0.0.0"), to: addr("255.255.255.255"), mac: everybody},
	{name: "to nobody from nobody", family: 4, network: "udp", from: addr("0.0.0.0"), to: addr("0.0.0.0")},
	{name: "to the subnet", family: 4, network: "udp", to: addr("192.0.2.255"), mac: everybody},
	{name: "to all hosts", family: 4, network: "udp", to: addr("224.0.0.1")},
	{name: "to a group", family: 4, network: "udp", to: group4, mac: groupMAC},
	{name: "to everybody", family: 4, network: "tcp", to: addr("255.255.255.255"), mac: everybody, refused: noTCPToMany},
	{name: "to a group", family: 4, network: "tcp", to: group4, refused: noTCPToMany},
	{name: "to another address of the host", family: 6, to: local6},
	{name: "to the link-local address", family: 6, to: nearby6},
	{name: "to the link-local address from one", family: 6, from: addr("fe80::bad"), to: nearby6},
	{name: "to all nodes", family: 6, network: "udp", to: addr("ff02::1")},
	{name: "to all nodes from a link-local address", family: 6, network: "udp", from: addr("fe80::bad"), to: addr("ff02::1")},
	{name: "to a group", family: 6, network: "udp", to: group6},
	{name: "to the solicited-node group", family: 6, network: "udp", to: addr("ff02::1:ff00:2")},
	{name: "to a group", family: 6, network: "tcp", to: group6, refused: noTCPToMany},
	{name: "to all routers", family: 6, network: "udp", needs: forwards, to: addr("ff02::2")},
	{name: "to any router of the subnet", family: 6, network: "udp", needs: forwards, to: addr("2001:db8::")},
	{name: "to ::1", family: 6, to: addr("::1"), refused: "Linux takes ::1 only on the loopback"},
}

var byFrame = []disguise{
	{name: "VLAN tag 0", tags: []byte{0, 0}},
	{name: "VLAN tag 0 with a priority", tags: []byte{0xe0, 0}},
	{name: "two VLAN tags 0", tags: []byte{0, 0, 0x81, 0, 0, 0}},
	{name: "VLAN 5", tags: []byte{0, 5}, refused: noSuchVLAN},
	{name: "VLAN 5 in VLAN tag 0", tags: []byte{0, 0, 0x81, 0, 0, 5}, refused: noSuchVLAN},
	{name: "in a frame for everybody", network: "udp", mac: everybody},
	{name: "in a frame for a group", network: "udp", mac: groupMAC},
	{name: "in a frame for everybody", network: "tcp", mac: everybody, refused: noTCPToMany},
}

var byOptions = []disguise{
	{name: "one option word", family: 4, dress: withOptions(1, 1, 1, 0)},
	{name: "all options that fit", family: 4, dress: withOptions(slices.Repeat([]byte{1}, 40)...)},
	{name: "record route", family: 4, dress: withOptions(append([]byte{7, 39, 4}, make([]byte, 37)...)...)},
	{name: "timestamps", family: 4, dress: withOptions(append([]byte{68, 36, 5, 0}, make([]byte, 32)...)...)},
	{name: "router alert", family: 4, dress: withOptions(148, 4, 0, 0)},
	{name: "source route that has ended", family: 4, dress: withOptions(131, 7, 8, 192, 0, 2, 2, 0)},
	{name: "options and fragments", family: 4, dress: chain(withOptions(slices.Repeat([]byte{1}, 40)...), cut(8))},
	{name: "the reserved bit", family: 4, dress: withFlags(0x8000)},
	{name: "do not fragment", family: 4, dress: withFlags(0x4000)},
}

var byFragments = []disguise{
	{name: "fragments of 24 bytes", data: 100, dress: cut(24, 48, 72, 96)},
	{name: "fragments of 24 bytes, last first", data: 100, dress: backwards(cut(24, 48, 72, 96))},
	{name: "fragments of 24 bytes, middle first", data: 100, dress: middleFirst(cut(24, 48, 72))},
	{name: "each fragment twice", data: 100, dress: twice(cut(24, 48))},
	{name: "do not fragment, in fragments", family: 4, dress: chain(withFlags(0x4000), cut(8))},

	// Of TCP, the first fragment holds the ports but not the flags.
	{name: "first fragment of 8 bytes", family: 4, dress: cut(8)},
	{name: "first fragment of 8 bytes, last first", family: 4, dress: backwards(cut(8))},
	{name: "first fragment of 16 bytes", family: 4, dress: cut(16)},
	{name: "fragments of 8 bytes", family: 4, dress: cut(8, 16, 24)},
	{name: "fragments of 8 bytes, last first", family: 4, dress: backwards(cut(8, 16, 24))},
	{name: "first fragment of 8 bytes", family: 6, network: "udp", dress: cut(8)},
	{name: "first fragment of 8 bytes, last first", family: 6, network: "udp", dress: backwards(cut(8))},
	{name: "first fragment of 8 bytes", family: 6, network: "tcp", dress: cut(8), refused: headersFirst},
	{name: "first fragment of 16 bytes", family: 6, network: "tcp", dress: cut(16), refused: headersFirst},
	{name: "first fragment of 4 bytes", family: 4, refused: shorter, dress: func(p lab.IP, id uint32) []lab.IP {
		return []lab.IP{piece(p, id, 0, 4), piece(p, id, 8, len(p.Payload))}
	}},

	{name: "harmless first fragment, then the true one", data: 100, refused: overlap, dress: func(p lab.IP, id uint32) []lab.IP {
		return []lab.IP{piece(harmless(p), id, 0, 24), piece(p, id, 0, 24), piece(p, id, 24, len(p.Payload))}
	}},
	{name: "true first fragment, then a harmless one", data: 100, refused: overlap, dress: func(p lab.IP, id uint32) []lab.IP {
		return []lab.IP{piece(p, id, 0, 24), piece(harmless(p), id, 0, 24), piece(harmless(p), id, 24, len(p.Payload))}
	}},
	{name: "harmless flags, overlapped by the true ones", network: "tcp", data: 100, refused: overlap, dress: func(p lab.IP, id uint32) []lab.IP {
		return []lab.IP{piece(answering(p), id, 0, 24), piece(p, id, 8, len(p.Payload))}
	}},
	{name: "true flags, overlapped by harmless ones", network: "tcp", data: 100, refused: overlap, dress: func(p lab.IP, id uint32) []lab.IP {
		return []lab.IP{piece(p, id, 8, len(p.Payload)), piece(answering(p), id, 0, 24)}
	}},
	{name: "overlapping tails", data: 100, refused: overlap, dress: func(p lab.IP, id uint32) []lab.IP {
		return []lab.IP{piece(p, id, 0, 32), piece(p, id, 24, 64), piece(p, id, 56, len(p.Payload))}
	}},
}

var byExtensions = []disguise{
	{name: "hop-by-hop options", family: 6, dress: after(hops)},
	{name: "destination options", family: 6, dress: after(options)},
	{name: "routing header, done", family: 6, dress: after(arrived0)},
	{name: "routing header of an experiment, done", family: 6, dress: after(arrived253)},
	{name: "segment routing header, done", family: 6, dress: after(segments)},
	{name: "segment routing header with a stop at another address", family: 6, to: local6, dress: func(p lab.IP, _ uint32) []lab.IP {
		route := slices.Concat([]byte{4, 1, 1, 0, 0, 0}, local6.AsSlice(), lab.Web6.AsSlice()) // the last first
		p = behind(p, extension{routing, route})
		p.To = lab.Web6
		return []lab.IP{p}
	}},
	{name: "segment routing header around a packet", family: 6, dress: func(p lab.IP, _ uint32) []lab.IP {
		outer := lab.IP{From: p.From, To: p.To, Protocol: inIPv6, Payload: p.Bytes()}
		return []lab.IP{behind(outer, segments)}
	}},
	{name: "all headers", family: 6, dress: after(hops, options, arrived0, atomicFragment, options)},
	{name: "twelve headers", family: 6, dress: after(slices.Repeat([]extension{options}, 12)...)},
	{name: "a header of 1 KiB", family: 6, dress: after(large)},
	{name: "atomic fragment", family: 6, dress: after(atomicFragment)},
	{name: "atomic fragment, then options", family: 6, dress: after(atomicFragment, options)},
	{name: "options, then an atomic fragment", family: 6, fails: tracking, dress: after(options, atomicFragment)},
	{name: "options in the first fragment", family: 6, data: 100, dress: chain(after(options), cut(32))},
	{name: "options before each fragment", family: 6, data: 100, fails: tracking, dress: chain(cut(24), after(hops, options))},

	{name: "options fill the first fragment", family: 6, refused: headersFirst, dress: chain(after(options), cut(8))},
	{name: "options fill the first fragment, last first", family: 6, refused: headersFirst, dress: backwards(chain(after(options), cut(8)))},
	{name: "options longer than the first fragment", family: 6, refused: headersFirst, dress: chain(after(large), cut(512))},
	{name: "options before and in the first fragment", family: 6, refused: headersFirst, dress: chain(after(options, options), cut(16), after(options))},
	{name: "a fragment behind an atomic fragment", family: 6, data: 100, refused: oneFragment, dress: chain(cut(24), after(atomicFragment))},
	{name: "a fragment cut in fragments", family: 6, data: 100, refused: oneFragment, dress: chain(cut(24), cut(16))},
	{name: "two atomic fragments", family: 6, refused: oneFragment, dress: after(atomicFragment, atomicFragment)},

	// Where connections are tracked, Linux takes the fragment header out but
	// then reads what was behind it as the first header once more. So the
	// host sees the true protocol, and rules that come later the false one.
	{name: "false protocol behind options", family: 6, refused: lie, dress: lying(noNext, options)},
	{name: "false ICMPv6 behind options", family: 6, refused: lie, dress: lying(unix.IPPROTO_ICMPV6, options)},
	{name: "false TCP behind options", family: 6, refused: lie, dress: lying(unix.IPPROTO_TCP, options)},
	{name: "false UDP behind options", family: 6, refused: lie, dress: lying(unix.IPPROTO_UDP, options)},
	{name: "false protocol behind two kinds of options", family: 6, refused: lie, dress: lying(noNext, hops, options)},
	{name: "false protocol behind a routing header", family: 6, refused: lie, dress: lying(noNext, arrived0)},
	{name: "false protocol behind a segment routing header", family: 6, refused: lie, dress: lying(noNext, segments)},
	{name: "false protocol in fragments", family: 6, data: 100, refused: lie, dress: chain(after(options), claiming(noNext), cut(32), after(options))},

	{name: "hop-by-hop options twice", family: 6, refused: wrongPlace, dress: after(hops, hops)},
	{name: "hop-by-hop options behind others", family: 6, refused: wrongPlace, dress: after(options, hops)},
	{name: "authentication header", family: 6, refused: unsigned, dress: after(signed)},
	{name: "authentication header", family: 4, refused: unsigned, dress: after(signed)},
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// A dressing makes packets of a packet. The id tells fragments of one from
// those of another.
type dressing func(p lab.IP, id uint32) []lab.IP

// each makes one packet of each.
func each(dress func(lab.IP) lab.IP) dressing {
	return func(p lab.IP, _ uint32) []lab.IP { return []lab.IP{dress(p)} }
}

func withOptions(options ...byte) dressing {
	return each(func(p lab.IP) lab.IP { p.Options = options; return p })
}

func withFlags(flags uint16) dressing {
	return each(func(p lab.IP) lab.IP { p.Fragment = flags; return p })
}

func claiming(protocol byte) dressing {
	return each(func(p lab.IP) lab.IP { p.Protocol = protocol; return p })
}

func after(headers ...extension) dressing {
	return each(func(p lab.IP) lab.IP { return behind(p, headers...) })
}

func cut(at ...int) dressing {
	return func(p lab.IP, id uint32) []lab.IP { return pieces(p, id, at...) }
}

// chain dresses what the one before has made.
func chain(dressings ...dressing) dressing {
	return func(p lab.IP, id uint32) []lab.IP {
		all := []lab.IP{p}
		for _, dress := range dressings {
			var next []lab.IP
			for i, p := range all {
				next = append(next, dress(p, id+uint32(i)<<16)...)
			}
			all = next
		}
		return all
	}
}

func backwards(dress dressing) dressing {
	return func(p lab.IP, id uint32) []lab.IP {
		all := dress(p, id)
		slices.Reverse(all)
		return all
	}
}

func middleFirst(dress dressing) dressing {
	return func(p lab.IP, id uint32) []lab.IP {
		all := dress(p, id)
		return append(all[1:], all[0])
	}
}

func twice(dress dressing) dressing {
	return func(p lab.IP, id uint32) []lab.IP {
		var all []lab.IP
		for _, one := range dress(p, id) {
			all = append(all, one, one)
		}
		return all
	}
}

// lying claims a false protocol in an atomic fragment header behind others. The
// last of those comes twice: the second time as the beginning of what the false
// protocol carries.
func lying(protocol byte, headers ...extension) dressing {
	last := headers[len(headers)-1]
	return chain(after(last), claiming(protocol), after(atomicFragment), after(headers...))
}

// harmless is the same packet to a port that is not guarded.
func harmless(p lab.IP) lab.IP {
	p.Payload = slices.Clone(p.Payload)
	p.Payload[2], p.Payload[3] = 0, 22
	return p
}

// answering is the same TCP segment with ACK instead of SYN.
func answering(p lab.IP) lab.IP {
	p.Payload = slices.Clone(p.Payload)
	p.Payload[13] = ack
	return p
}

// An attempt is a disguise in use.
type attempt struct {
	disguise
	caller  netip.AddrPort
	callee  netip.AddrPort
	network string
}

// packets dresses the attempt.
func (a attempt) packets() []lab.IP {
	from, to := a.caller, a.callee
	if a.from.IsValid() {
		from = netip.AddrPortFrom(a.from, from.Port())
	}
	if a.to.IsValid() {
		to = netip.AddrPortFrom(a.to, to.Port())
	}
	p := lab.IP{From: from.Addr(), To: to.Addr()}
	if a.network == "udp" {
		data := make([]byte, max(a.data, 16)) // enough to cut
		p.Protocol, p.Payload = unix.IPPROTO_UDP, lab.Datagram(from, to, data)
	} else {
		p.Protocol, p.Payload = unix.IPPROTO_TCP, a.segment.bytes(from, to, make([]byte, a.data))
	}
	if a.dress == nil {
		return []lab.IP{p}
	}
	return a.dress(p, uint32(from.Port()))
}
