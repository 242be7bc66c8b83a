package packettest

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
)

func closedInbound(w wanted) wanted {
	w.policy.Inbound.Drop = true
	return w
}

func TestInboundLeavesTheRestAlone(t *testing.T) {
	for name, test := range untouched {
		t.Run(name, func(t *testing.T) { test(t, closedInbound) })
		t.Run(name+", in mode tunnel", func(t *testing.T) {
			test(t, func(w wanted) wanted { return tunnelled(closedInbound(w)) })
		})
	}
}

// inboundConfig is what all knocks are judged by. The friends are in the
// networks that may reach port 25 and the range of UDP ports.
const inboundConfig = `
[web]
tcp = [80, 443]
udp = [443]

[inbound]
policy = "drop"
open = [
  "22/tcp",
  "25/tcp from 203.0.113.0/25,2001:db8:e::/47",
  "53/udp",
  "8000-8010/tcp",
  "60000-61000/udp from 203.0.113.0/25,2001:db8:e::/47",
]
`

// The ends of the networks that may reach some open ports, and who is just outside.
var (
	firstMembers = sources("203.0.113.0", "2001:db8:e::")
	lastMembers  = sources("203.0.113.127", "2001:db8:f:ffff:ffff:ffff:ffff:ffff")
	justBelow    = sources("203.0.112.255", "2001:db8:d:ffff:ffff:ffff:ffff:ffff")
	justAbove    = sources("203.0.113.128", "2001:db8:10::")
)

// Groups and those who speak to them.
var (
	groups      = []netip.Addr{group4, group6}
	nearby      = sources("192.0.2.77", "fe80::77")
	everyone4   = sources("255.255.255.255")
	subnet4     = sources("192.0.2.255")
	allNodes    = sources("224.0.0.1", "ff02::1")
	linkLocal   = []netip.Addr{lab.Web4, nearby6}
	hostItself  = []netip.Addr{lab.Web4}
	loopback4   = sources("127.0.0.1")
	otherLocals = []netip.Addr{local4, local6}
)

func knocks() []knock {
	return slices.Concat(tcpKnocks, udpKnocks, strangeKnocks, icmpKnocks(), fragmentKnocks)
}

var tcpKnocks = []knock{
	{name: "SYN to a port that is not open", carry: segmentTo(23)},
	{name: "SYN to port 0", carry: segmentTo(0)},
	{name: "SYN to a port that is not open, at another address", to: otherLocals, carry: segmentTo(23)},
	{name: "SYN to a port that is open for UDP", carry: segmentTo(53)},
	{name: "SYN to an open port", carry: segmentTo(22), admit: true},
	{name: "SYN to an open port, at another address", to: otherLocals, carry: segmentTo(22), admit: true},
	{name: "SYN to an open port, with ECE and CWR", carry: segmentTo(22, syn, ece, cwr), admit: true},
	{name: "ACK to an open port", carry: segmentTo(22, ack), admit: true},
	{name: "SYN of the edge to a port that is not open", by: edges, carry: segmentTo(23)},
	{name: "SYN of a friend to a port that is not open", by: friends, carry: segmentTo(23)},
	{name: "SYN to a guarded port", carry: segmentTo(443)},
	{name: "SYN of the edge to a guarded port", by: edges, carry: segmentTo(443), admit: true},
	{name: "SYN of the edge to the other guarded port", by: edges, carry: segmentTo(80), admit: true},
	{name: "SYN of a friend to a guarded port", by: friends, carry: segmentTo(443), admit: true},

	{name: "SYN of the first member", by: firstMembers, carry: segmentTo(25), admit: true},
	{name: "SYN of the last member", by: lastMembers, carry: segmentTo(25), admit: true},
	{name: "SYN of the address before the members'", by: justBelow, carry: segmentTo(25)},
	{name: "SYN of the address behind the members'", by: justAbove, carry: segmentTo(25)},
	{name: "SYN of a stranger to the members' port", carry: segmentTo(25)},
	{name: "SYN of the edge to the members' port", by: edges, carry: segmentTo(25)},
	{name: "ACK of a stranger to the members' port", carry: segmentTo(25, ack)},
	{name: "SYN of a member to another port", by: firstMembers, carry: segmentTo(26)},

	{name: "SYN to the first port of an open range", carry: segmentTo(8000), admit: true},
	{name: "SYN to the last port of an open range", carry: segmentTo(8010), admit: true},
	{name: "SYN to the port before an open range", carry: segmentTo(7999)},
	{name: "SYN to the port behind an open range", carry: segmentTo(8011)},

	// To the ports from which connections are opened here, answers come.
	{name: "SYN to an ephemeral port", carry: segmentTo(ephemeral)},
	{name: "SYN to an ephemeral port, with ECE and CWR", carry: segmentTo(ephemeral, syn, ece, cwr)},
	{name: "SYN, FIN to an ephemeral port", carry: segmentTo(ephemeral, syn, fin)},
	{name: "SYN, RST to an ephemeral port", carry: segmentTo(ephemeral, syn, rst)},
	{name: "every flag but ACK to an ephemeral port", carry: segmentTo(ephemeral, 0xff&^ack)},
	{name: "ACK to an ephemeral port", carry: segmentTo(ephemeral, ack), admit: true},
	{name: "SYN, ACK to an ephemeral port", carry: segmentTo(ephemeral, syn, ack), admit: true},
	{name: "RST to an ephemeral port", carry: segmentTo(ephemeral, rst), admit: true},
	{name: "ACK to the first ephemeral port", carry: segmentTo(32768, ack), admit: true},
	{name: "ACK to the last ephemeral port", carry: segmentTo(60999, ack), admit: true},
	{name: "ACK to the port before the ephemeral ones", carry: segmentTo(32767, ack)},
	{name: "ACK to the port behind the ephemeral ones", carry: segmentTo(61000, ack)},
	{name: "ACK to a port that is not open", carry: segmentTo(23, ack)},
	{name: "SYN, ACK to a port that is not open", carry: segmentTo(23, syn, ack)},
	{name: "RST to a port that is not open", carry: segmentTo(23, rst)},
	{name: "FIN to a port that is not open", carry: segmentTo(23, fin)},

	{name: "SYN that claims to come from the host", family: 4, by: hostItself, carry: segmentTo(23)},
	{name: "SYN that claims to come from the loopback", family: 4, by: loopback4, carry: segmentTo(23)},
	{name: "SYN of a neighbour", by: nearby, to: linkLocal, carry: segmentTo(23)},
	{name: "SYN of a neighbour to an open port", by: nearby, to: linkLocal, carry: segmentTo(22), admit: true},
}

var udpKnocks = []knock{
	{name: "datagram to a port that is not open", carry: datagramTo(54, 16)},
	{name: "datagram to port 0", carry: datagramTo(0, 16)},
	{name: "datagram to a port that is open for TCP", carry: datagramTo(22, 16)},
	{name: "datagram to an open port", carry: datagramTo(53, 16), admit: true},
	{name: "large datagram to an open port", carry: datagramTo(53, 1400), admit: true},
	{name: "datagram of a friend to a port that is not open", by: friends, carry: datagramTo(54, 16)},
	{name: "datagram to a guarded port", carry: datagramTo(443, 16)},
	{name: "datagram of the edge to a guarded port", by: edges, carry: datagramTo(443, 16)},
	{name: "datagram of a friend to a guarded port", by: friends, carry: datagramTo(443, 16), admit: true},
	{name: "datagram to a port that is guarded for TCP", by: edges, carry: datagramTo(80, 16)},
	{name: "datagram of a member to the first port of a range", by: firstMembers, carry: datagramTo(60000, 16), admit: true},
	{name: "datagram of a member to the last port of a range", by: lastMembers, carry: datagramTo(61000, 16), admit: true},
	{name: "datagram of a member to the port before a range", by: firstMembers, carry: datagramTo(59999, 16)},
	{name: "datagram of a member to the port behind a range", by: lastMembers, carry: datagramTo(61001, 16)},
	{name: "datagram of a stranger to the members' range", carry: datagramTo(60500, 16)},
	{name: "datagram of the address before the members'", by: justBelow, carry: datagramTo(60500, 16)},
	{name: "datagram of the address behind the members'", by: justAbove, carry: datagramTo(60500, 16)},
	{name: "answer of a DNS server that nobody asked", carry: datagram(53, ephemeral)},
	{name: "answer of a time server that nobody asked", carry: datagram(123, 123)},

	{name: "DHCP answer", family: 4, by: nearby, carry: datagram(67, 68), admit: true},
	{name: "DHCP answer to everybody", family: 4, by: nearby, to: everyone4, mac: everybody, carry: datagram(67, 68), admit: true},
	{name: "DHCP answer by way of a relay", family: 4, carry: datagram(67, 68), admit: true},
	{name: "DHCP question", family: 4, by: sources("0.0.0.0"), to: everyone4, mac: everybody, carry: datagram(68, 67)},
	{name: "DHCP relay to a server", family: 4, by: nearby, carry: datagram(67, 67)},
	{name: "DHCP answer from another port", family: 4, by: nearby, carry: datagram(53, 68)},
	{name: "DHCP answer to another port", family: 4, by: nearby, carry: datagram(67, 69)},
	{name: "DHCP answer in IPv6", family: 6, by: nearby, carry: datagram(67, 68)},
	{name: "DHCPv6 answer", family: 6, by: nearby, to: linkLocal, carry: datagram(547, 546), admit: true},
	{name: "DHCPv6 question", family: 6, by: nearby, to: linkLocal, carry: datagram(546, 547)},
	{name: "DHCPv6 answer from another port", family: 6, by: nearby, to: linkLocal, carry: datagram(548, 546)},
	{name: "DHCPv6 answer in IPv4", family: 4, by: nearby, carry: datagram(547, 546)},

	{name: "multicast DNS", by: nearby, to: groups, mac: groupMAC, carry: datagram(5353, 5353)},
	{name: "multicast DNS to the host alone", by: nearby, to: linkLocal, carry: datagram(5353, 5353)},
	{name: "datagram to all hosts of the link", by: nearby, to: allNodes, carry: datagramTo(1900, 16)},
	{name: "datagram to everybody", family: 4, by: nearby, to: everyone4, mac: everybody, carry: datagramTo(9, 16)},
	{name: "datagram to an open port of everybody", family: 4, by: nearby, to: everyone4, mac: everybody, carry: datagramTo(53, 16), admit: true},
	{name: "NetBIOS name to the subnet", family: 4, by: nearby, to: subnet4, mac: everybody, carry: datagram(137, 137)},
}

// What has no ports cannot be opened.
var strangeKnocks = []knock{
	{name: "SCTP", carry: raw(unix.IPPROTO_SCTP)},
	{name: "DCCP", carry: raw(unix.IPPROTO_DCCP)},
	{name: "UDP-Lite", carry: raw(unix.IPPROTO_UDPLITE)},
	{name: "GRE", carry: raw(unix.IPPROTO_GRE)},
	{name: "ESP", carry: raw(unix.IPPROTO_ESP)},
	{name: "OSPF", by: nearby, carry: raw(89)},
	{name: "VRRP", by: nearby, carry: raw(112)},
	{name: "IGMP to a group", family: 4, by: nearby, to: allNodes, carry: raw(unix.IPPROTO_IGMP), admit: true},
	{name: "IGMP to the host alone", family: 4, carry: raw(unix.IPPROTO_IGMP)},
	{name: "a protocol for experiments", carry: raw(253)},
	{name: "nothing", family: 6, carry: raw(noNext)},
	{name: "IPv4 in IPv4", family: 4, carry: within(4, segmentTo(22))},
	{name: "IPv6 in IPv6", family: 6, carry: within(inIPv6, segmentTo(22))},
	{name: "ICMP in IPv6", family: 6, carry: raw(unix.IPPROTO_ICMP)},
	{name: "ICMPv6 in IPv4", family: 4, carry: raw(unix.IPPROTO_ICMPV6)},
	{name: "SYN behind hop-by-hop options", family: 6, carry: segmentTo(23), dress: after(hops)},
	{name: "SYN behind all headers that do not cut", family: 6, carry: segmentTo(23), dress: after(hops, options, arrived0, options)},
	{name: "SYN to an open port, behind all headers that do not cut", family: 6, carry: segmentTo(22), dress: after(hops, options, arrived0, options), admit: true},
	{name: "SYN with IPv4 options", family: 4, carry: segmentTo(23), dress: withOptions(1, 1, 1, 0)},
	{name: "SYN to an open port, with IPv4 options", family: 4, carry: segmentTo(22), dress: withOptions(1, 1, 1, 0), admit: true},
}

// within puts a packet for an open port into another.
func within(protocol byte, carry content) content {
	return func(from, to netip.Addr, number uint16) (byte, []byte) {
		inner := lab.IP{From: from, To: to, ID: number}
		inner.Protocol, inner.Payload = carry(from, to, number)
		return protocol, inner.Bytes()
	}
}

// icmpKnocks are all kinds of messages that have a name, and some without. Most
// that are admitted are errors or what IPv6 lives by.
func icmpKnocks() []knock {
	needed := map[int][]byte{
		4: {3, 8, 11, 12},
		6: {1, 2, 3, 4, 128, 130, 131, 132, 133, 134, 135, 136, 137, 143},
	}
	names := map[int]map[byte]string{
		4: {0: "echo reply", 3: "unreachable", 4: "source quench", 5: "redirect", 8: "echo request",
			9: "router advertisement", 10: "router solicitation", 11: "time exceeded", 12: "parameter problem",
			13: "timestamp request", 14: "timestamp reply", 15: "information request", 16: "information reply",
			17: "address mask request", 18: "address mask reply", 30: "traceroute", 40: "Photuris",
			42: "extended echo request", 43: "extended echo reply", 253: "experiment"},
		6: {1: "unreachable", 2: "too big", 3: "time exceeded", 4: "parameter problem", 100: "experiment",
			128: "echo request", 129: "echo reply", 130: "listener query", 131: "listener report", 132: "listener done",
			133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation",
			136: "neighbour advertisement", 137: "redirect", 138: "router renumbering", 139: "node information query",
			140: "node information response", 141: "inverse solicitation", 142: "inverse advertisement",
			143: "listener report 2", 144: "home agent request", 148: "certification path solicitation",
			151: "multicast router advertisement", 155: "RPL control", 160: "extended echo request", 200: "experiment 2"},
	}
	var all []knock
	for _, family := range []int{4, 6} {
		for kind := range 256 {
			if name, known := names[family][byte(kind)]; known {
				all = append(all, knock{name: "ICMP " + name, family: family, carry: message(byte(kind), 0),
					admit: slices.Contains(needed[family], byte(kind))})
			}
		}
	}
	return append(all,
		knock{name: "ICMP fragmentation needed", family: 4, carry: message(3, 4), admit: true},
		knock{name: "ICMP echo request to everybody", family: 4, by: nearby, to: everyone4, mac: everybody, carry: message(8, 0), admit: true},
		knock{name: "ICMP timestamp request of the edge", family: 4, by: edges, carry: message(13, 0)})
}

var fragmentKnocks = []knock{
	{name: "datagram to an open port, in fragments", carry: datagramTo(53, 3000), dress: cut(1400, 2800), admit: true},
	{name: "datagram to an open port, in fragments, last first", carry: datagramTo(53, 3000), dress: backwards(cut(1400, 2800)), admit: true},
	{name: "datagram to a port that is not open, in fragments", carry: datagramTo(54, 3000), dress: cut(1400, 2800)},
	{name: "datagram to a port that is not open, in fragments, last first", carry: datagramTo(54, 3000), dress: backwards(cut(1400, 2800))},
	{name: "datagram of a member, in fragments", by: firstMembers, carry: datagramTo(60500, 3000), dress: cut(1400, 2800), admit: true},
	{name: "datagram of a stranger to the members' range, in fragments", carry: datagramTo(60500, 3000), dress: cut(1400, 2800)},
	{name: "datagram of a friend to a guarded port, in fragments", by: friends, carry: datagramTo(443, 3000), dress: cut(1400, 2800), admit: true},
	{name: "datagram to a guarded port, in fragments", carry: datagramTo(443, 3000), dress: cut(1400, 2800)},
	{name: "SYN to an open port, its flags in the second fragment", family: 4, carry: segmentTo(22), dress: cut(8), admit: true},
	{name: "SYN to a port that is not open, its flags in the second fragment", family: 4, carry: segmentTo(23), dress: cut(8)},
	{name: "SYN to an ephemeral port, its flags in the second fragment", family: 4, carry: segmentTo(ephemeral), dress: cut(8)},
	{name: "SYN to an open port, in an atomic fragment", family: 6, carry: segmentTo(22), dress: after(atomicFragment), admit: true},
	{name: "SYN to a port that is not open, in an atomic fragment", family: 6, carry: segmentTo(23), dress: after(atomicFragment)},
	{name: "SYN to an open port, in an atomic fragment behind options", family: 6, carry: segmentTo(22), dress: after(options, atomicFragment)},
	{name: "SYN to a port that is not open, in an atomic fragment behind options", family: 6, carry: segmentTo(23), dress: after(options, atomicFragment)},
	{name: "datagram in fragments behind options", family: 6, carry: datagramTo(54, 3000), dress: chain(cut(1400, 2800), after(options))},
	{name: "SYN that claims to be ICMPv6, in an atomic fragment behind options", family: 6, carry: segmentTo(23), dress: lying(unix.IPPROTO_ICMPV6, options)},
	{name: "SYN that claims to be nothing, in an atomic fragment behind options", family: 6, carry: segmentTo(23), dress: lying(noNext, options)},
	{name: "SYN whose header options fill the first fragment", family: 6, carry: segmentTo(23), dress: chain(after(options), cut(8))},
	{name: "echo request in fragments", family: 4, carry: message(8, 0), dress: cut(16), admit: true},
	{name: "echo request in fragments", family: 6, carry: message(128, 0), dress: cut(16), admit: true},
}

// openGrounds are those whose own ports are tried.
func openGrounds() []ground {
	return slices.DeleteFunc(slices.Clone(grounds), func(g ground) bool { return g.reaches != nil })
}

// A host with [inbound] policy = "drop" lets in what the table says and no
// more, whatever else it does. Without rules all of it comes in.
func TestInboundKnocks(t *testing.T) {
	for _, g := range openGrounds() {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			g.testKnocks(t, knocks())
		})
	}
}

func (g ground) testKnocks(t *testing.T, table []knock) {
	s, link, server := g.build(t)
	mute(t, s.Client)
	joinGroups(t, server, link)
	d := newDoorman(t, s.Web)
	here, there := s.Client.MAC("eth0"), s.Web.MAC(link)
	try := func(round uint16, must func(packedKnock) bool) ([]packedKnock, map[uint16]bool) {
		packed := pack(table, round, here, there)
		return packed, d.receive(t, s.Client, packed, must)
	}

	controls, cameBefore := try(controlRound, func(packedKnock) bool { return true })
	w := configured(t, inboundConfig)
	w.facts = func(h *firewall.Host) {
		g.facts(h)
		h.Ephemeral = []firewall.PortRange{{First: 32768, Last: 60999}}
	}
	enforce(t, s.Web, w)
	tried, came := try(strangerRound, func(k packedKnock) bool { return k.admit })
	for i, k := range tried {
		if !cameBefore[controls[i].number] {
			t.Errorf("%s: it does not come in without rules either, so this proves nothing", k)
		}
	}
	judgeKnocks(t, tried, came)
}

func judgeKnocks(t *testing.T, tried []packedKnock, came map[uint16]bool) {
	t.Helper()
	refused := 0
	for _, k := range tried {
		switch {
		case came[k.number] && !k.admit:
			t.Errorf("LEAKED %s", k)
		case !came[k.number] && k.admit:
			t.Errorf("LOST %s", k)
		}
		if !k.admit {
			refused++
		}
	}
	t.Logf("%d cases, %d of them refused", len(tried), refused)
}

// joinGroups makes a host take what is sent to some groups.
func joinGroups(t *testing.T, h *lab.Host, link string) {
	t.Helper()
	for _, network := range []string{"udp4", "udp6"} {
		var err error
		h.Do(func() {
			c, e := listenToGroup(network, link)
			if err = e; e == nil {
				t.Cleanup(func() { c.Close() })
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// No disguise makes a port look open that is not.
func TestInboundDisguises(t *testing.T) {
	for _, g := range grounds {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			g.testClosedPorts(t)
		})
	}
}

func (g ground) testClosedPorts(t *testing.T) {
	s, link, server := g.build(t)
	w := watch(t, s.Web, link, server)
	here, there := s.Client.MAC("eth0"), s.Web.MAC(link)
	try := func(round uint16, callers []netip.Addr, must func(attempt) bool) []attempt {
		var frames [][]byte
		attempts := g.attempts(round, callers, callers)
		for _, a := range attempts {
			frames = append(frames, a.frames(here, there)...)
		}
		sendFrames(t, s.Client, "eth0", frames)
		w.await(t, attempts, must)
		return attempts
	}

	controls := try(controlRound, strangers, func(a attempt) bool { return g.admits(a.disguise) })
	want := configured(t, fmt.Sprintf(`
		web.tcp = [80]
		web.udp = []
		[inbound]
		policy = "drop"
		open = ["%[1]d/tcp from %[2]s", "%[1]d/udp from %[2]s", "%[3]d/tcp from %[2]s"]`,
		g.ports[0], "203.0.113.7,2001:db8:f::7", ephemeral))
	want.facts = g.facts
	enforce(t, s.Web, want)
	hostile := try(strangerRound, strangers, func(attempt) bool { return false })
	mustPass := func(a attempt) bool { return g.admits(a.disguise) && !a.from.IsValid() && !isForNoPort(a) }
	friendly := try(insiderRound, friends, mustPass)

	arrived := w.arrived(t)
	for i, a := range hostile {
		if g.admits(a.disguise) && !arrived[controls[i].caller.Port()] {
			t.Errorf("%s: it does not get through without rules either, so this proves nothing", a)
		}
		if passes := a.noOpening && a.callee.Port() == ephemeral; arrived[a.caller.Port()] != passes {
			t.Errorf("LEAKED %s from the stranger %s: got through %t, want %t", a, a.caller.Addr(), !passes, passes)
		}
		if in := friendly[i]; mustPass(in) != arrived[in.caller.Port()] && !in.from.IsValid() && g.admits(in.disguise) {
			t.Errorf("%s from the friend %s: got through %t, want %t", in, in.caller.Addr(), !mustPass(in), mustPass(in))
		}
	}
	t.Logf("%d attempts", len(hostile))
}

// isForNoPort tells what is closed to everybody where ports are closed that are
// not guarded: IPv6 packets whose fragment header stands behind others, later
// fragments that begin with another header, and packets within packets.
func isForNoPort(a attempt) bool {
	headers := []byte{hopByHop, routing, destinationOptions}
	return slices.ContainsFunc(a.packets(), func(p lab.IP) bool {
		if !p.From.Is6() {
			return false
		}
		kind, rest := p.Protocol, p.Payload
		for slices.Contains(headers, kind) {
			kind, rest = rest[0], rest[8*(int(rest[1])+1):]
		}
		if kind != fragmentHeader {
			return kind == inIPv6
		}
		later := rest[2] != 0 || rest[3]&^7 != 0
		return p.Protocol != fragmentHeader || later && slices.Contains(headers, rest[0])
	})
}
