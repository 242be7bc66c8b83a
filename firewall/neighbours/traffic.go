package neighbours

import (
	"fmt"
	"net/netip"

	"github.com/cfwall/cfwall/firewall"
)

// A Peer is a host that the tunnel needs.
type Peer struct {
	Address netip.Addr
	// Source is the address of this host from which it is asked; zero: not known.
	Source netip.Addr
	// Interface is the one that leads there, and by which answers come.
	Interface Interface
}

// A Container is where cloudflared runs, if it does not run on the host itself.
type Container struct {
	Bridge     Interface
	IPv4, IPv6 netip.Addr // its addresses; zero: not known
}

// A Tunnel holds the facts from which the tunnel's traffic follows.
type Tunnel struct {
	// Edge are addresses of Cloudflare's side, Resolvers the DNS servers that
	// the host asks, 127.0.0.53 for instance.
	Edge, Resolvers []Peer
	// Ephemeral are the ports from which the host opens connections.
	Ephemeral firewall.PortRange
	// UID, GID and Cgroups are those of cloudflared: see Packet.
	UID, GID  *uint32
	Cgroups   []uint64
	Container *Container
}

const (
	portTunnel = 7844
	portDNS    = 53
)

// Traffic is what must pass: QUIC and HTTP/2 to the edge, and DNS.
func (t Tunnel) Traffic() []Traffic {
	var all []Traffic
	for _, protocol := range []string{"udp", "tcp"} {
		for _, p := range t.Edge {
			all = append(all, t.to(p, protocol, portTunnel))
		}
	}
	for _, protocol := range []string{"udp", "tcp"} {
		for _, p := range t.Resolvers {
			dns := t.to(p, protocol, portDNS)
			dns.MayBeDiverted = true
			all = append(all, dns)
		}
	}
	return all
}

func (t Tunnel) to(p Peer, protocol string, port uint16) Traffic {
	out := Packet{
		Path: Outward, Protocol: protocol, Source: p.Source, Destination: p.Address, Out: p.Interface,
		SourcePorts: t.Ephemeral, DestinationPorts: firewall.PortRange{First: port, Last: port},
		UID: t.UID, GID: t.GID, Cgroups: t.Cgroups, Opening: true,
	}
	traffic := Traffic{Name: fmt.Sprintf("%s port %d to %s", protocol, port, p.Address)}
	switch {
	case p.Address.IsLoopback():
		traffic.Packets = onLoopback(out)
	case port == portDNS:
		if t.Container != nil || t.hasStub() { // somebody else asks
			out.UID, out.GID, out.Cgroups = nil, nil, nil
		}
		traffic.Packets = conversation(out)
	case t.Container != nil:
		traffic.Packets = conversation(t.Container.sends(out))
	default:
		traffic.Packets = conversation(out)
	}
	return traffic
}

// hasStub says whether the host asks a resolver of its own, which asks others.
func (t Tunnel) hasStub() bool {
	for _, r := range t.Resolvers {
		if r.Address.IsLoopback() {
			return true
		}
	}
	return false
}

func (c Container) sends(p Packet) Packet {
	p.Path, p.In = Through, c.Bridge
	p.UID, p.GID, p.Cgroups = nil, nil, nil
	p.Source = c.IPv4
	if p.Destination.Is6() {
		p.Source = c.IPv6
	}
	return p
}

// conversation is a question and its answer, three times: some rules look at
// what they wrote down when an earlier packet came by.
func conversation(question Packet) []Packet {
	var all []Packet
	for range 3 {
		all = append(all, question, question.answer())
		question.Opening = false
	}
	return all
}

func (p Packet) answer() Packet {
	p.Opening, p.Reply = false, true
	p.Source, p.Destination = p.Destination, p.Source
	p.SourcePorts, p.DestinationPorts = p.DestinationPorts, p.SourcePorts
	p.In, p.Out = p.Out, p.In
	switch p.Path {
	case Outward:
		p.Path = Inward
	case Inward:
		p.Path = Outward
	case Through: // at first it is for the host, which may have lent its address by rules of iptables-legacy
		p.Destination = netip.Addr{}
	}
	return p
}

// onLoopback has each packet go out by lo and come in again.
func onLoopback(question Packet) []Packet {
	arrives := func(p Packet) Packet {
		p.Path, p.In, p.Out = Inward, p.Out, Interface{}
		return p
	}
	answer := question
	answer.Opening, answer.Reply = false, true
	answer.Source, answer.Destination = question.Destination, question.Source
	answer.SourcePorts, answer.DestinationPorts = question.DestinationPorts, question.SourcePorts
	answer.UID, answer.GID, answer.Cgroups = nil, nil, nil // those of the resolver
	return []Packet{question, arrives(question), answer, arrives(answer)}
}
