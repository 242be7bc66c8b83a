package neighbours

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

// A Path is the way of a packet through the host.
type Path int

// The ways: from a local process, to one, or from a link to another.
const (
	Outward Path = iota
	Inward
	Through
)

// An Interface is a network interface; the zero value stands for none.
type Interface struct {
	Name  string
	Index uint32 // 0: not known
}

// A Packet is what rules can see of a packet. What is zero or nil is not known.
type Packet struct {
	Path                Path
	Protocol            string // "tcp" or "udp"
	Source, Destination netip.Addr
	// SourcePorts and DestinationPorts hold one port, or those among which it is.
	SourcePorts, DestinationPorts firewall.PortRange
	In, Out                       Interface
	// UID, GID and Cgroups are those of the local process. Cgroups holds the
	// numbers of its cgroup and those above, the root (level 0) first.
	UID, GID *uint32
	Cgroups  []uint64
	// Opening is true for the first packet of a flow, Reply for one of the
	// answering side.
	Opening, Reply bool
}

// Traffic is a flow: packets in the order in which they come by.
type Traffic struct {
	Name    string // "udp port 7844 to 198.41.192.7"
	Packets []Packet
	// MayBeDiverted is true where another host may answer as well, as with
	// DNS, which rules often lead to a resolver of their own.
	MayBeDiverted bool
}

// samples are flows from the first, the last and a middle port of those that
// it may come from: rules that look at them look at ranges.
func (t Traffic) samples() []Traffic {
	all := make([]Traffic, 3)
	for i := range all {
		all[i] = t
		all[i].Packets = slices.Clone(t.Packets)
		for n := range all[i].Packets {
			p := &all[i].Packets[n]
			p.SourcePorts, p.DestinationPorts = sample(p.SourcePorts, i), sample(p.DestinationPorts, i)
		}
	}
	return all
}

func sample(r firewall.PortRange, i int) firewall.PortRange {
	port := r.First + uint16(i*int(r.Last-r.First)/2)
	return firewall.PortRange{First: port, Last: port}
}

func (p Packet) isIPv6() bool { return p.Source.Is6() || p.Destination.Is6() }

func (p Packet) family() byte {
	if p.isIPv6() {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func (p Packet) number() byte {
	if p.Protocol == "tcp" {
		return unix.IPPROTO_TCP
	}
	return unix.IPPROTO_UDP
}

// A station is a hook that a packet passes, with the device whose chains count.
type station struct {
	hook   Hook
	device string
}

func (p Packet) stations() []station {
	arrival := []station{{Ingress, p.In.Name}, {Prerouting, ""}}
	departure := []station{{Postrouting, ""}, {Egress, p.Out.Name}}
	switch p.Path {
	case Outward:
		return append([]station{{Output, ""}}, departure...)
	case Inward:
		return append(arrival, station{Input, ""})
	default:
		return append(append(arrival, station{Forward, ""}), departure...)
	}
}

// The layout of headers (RFC 791, RFC 8200, RFC 9293, RFC 768).
const (
	networkSize   = 40
	transportSize = 20
	udpSize       = 8
	tcpFlags      = 13
)

// headers are the network and the transport header as far as they are known.
func (p Packet) headers() (network, transport bits) {
	network, transport = unknown(20), unknown(udpSize)
	source, destination, protocol := 12, 16, 9
	network.put(0, known(0x45))
	network.put(6, bits{[]byte{0, 0}, []byte{0xbf, 0xff}}) // no fragment; "don't fragment" may be set
	if p.isIPv6() {
		network = unknown(networkSize)
		source, destination, protocol = 8, 24, 6
		network.put(0, bits{[]byte{0x60}, []byte{0xf0}})
	}
	network.put(protocol, known(p.number()))
	if p.Source.IsValid() {
		network.put(source, known(p.Source.AsSlice()...))
	}
	if p.Destination.IsValid() {
		network.put(destination, known(p.Destination.AsSlice()...))
	}
	if p.Protocol == "tcp" {
		transport = unknown(transportSize)
		transport.put(tcpFlags, p.flags())
	}
	transport.put(0, portBits(p.SourcePorts))
	transport.put(2, portBits(p.DestinationPorts))
	return network, transport
}

// flags are those of a TCP segment: SYN, SYN and ACK, or ACK. ECN and PSH may
// be set too.
func (p Packet) flags() bits {
	const fin, syn, rst, psh, ack, ecn = 0x01, 0x02, 0x04, 0x08, 0x10, 0xc0
	switch {
	case p.Opening:
		return bits{[]byte{syn}, []byte{0xff &^ ecn}}
	case p.Reply: // SYN and ACK come first; later answers have no SYN
		return bits{[]byte{ack}, []byte{0xff &^ (ecn | psh | syn)}}
	default:
		return bits{[]byte{ack}, []byte{0xff &^ (ecn | psh | fin)}}
	}
}
