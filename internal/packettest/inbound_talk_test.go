package packettest

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

// Large datagrams come in fragments, to an open port and to no other.
func TestInboundLargeDatagrams(t *testing.T) {
	for _, tracks := range []bool{false, true} {
		t.Run(fmt.Sprintf("tracking %t", tracks), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if tracks {
				track(t, s.Web)
			}
			s.Web.ListenUDP(":53", ":54")
			try := func(port uint16, passes bool) {
				for _, from := range strangers {
					q := question{from: netip.AddrPortFrom(from, 0), to: web(from, port), size: 4000, patience: patience(passes)}
					err := q.ask(s.Client)
					if passes != (err == nil) || passes == isTimeout(err) {
						t.Errorf("4000 bytes from %s to port %d: %v", from, port, err)
					}
				}
			}
			try(53, true)
			try(54, true)
			enforce(t, s.Web, configured(t, `
				[inbound]
				policy = "drop"
				open = ["53/udp"]`))
			try(53, true)
			try(54, false)
		})
	}
}

// A second connection that a server opens, as FTP once did, is none of the
// host's, and a second one to the host goes to a port that is not open.
func TestInboundSecondConnections(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Client.ListenTCP(":21")
	s.Web.ListenTCP(":21", ":40021")
	try := func(admit bool, port uint16) {
		for _, server := range strangers {
			first, err := dialTCP(s.Web, netip.AddrPort{}, netip.AddrPortFrom(server, 21), patient)
			if err != nil {
				t.Fatal(err)
			}
			defer first.Close()
			second, err := dialTCP(s.Client, netip.AddrPortFrom(server, port), web(server, 40021), patience(admit))
			if err == nil {
				second.Close()
			}
			if admit != (err == nil) || admit == isTimeout(err) {
				t.Errorf("a second connection from %s: %v, admit %t", server, err, admit)
			}
			expect(t, s.Client, calls("tcp", []netip.Addr{server}, true, 21)...)
			expect(t, s.Client, calls("tcp", []netip.Addr{server}, admit, 40021)...)
		}
	}
	try(true, 20)
	enforce(t, s.Web, configured(t, `
		[inbound]
		policy = "drop"
		open = ["21/tcp"]`))
	try(false, 19) // 20 lingers
}

// Published ports are closed unless they are guarded or open, to members alone
// where they say so.
func TestInboundPublishedPorts(t *testing.T) {
	opens := map[string]struct {
		open           string
		friend, others bool
	}{
		"not open":         {`"22/tcp"`, false, false},
		"open":             {`"9443/tcp"`, true, true},
		"open to friends":  {`"9443/tcp from 203.0.113.7,2001:db8:f::7"`, true, false},
		"another one open": {`"443/tcp", "9442/tcp", "9444/tcp"`, false, false}, // 443 is the container's own
	}
	for way, publish := range publications {
		for name, tt := range opens {
			t.Run(way+", "+name, func(t *testing.T) {
				t.Parallel()
				s := newSite(t)
				s.Container().ListenTCP(":443")
				publish(t, s.Web)
				expect(t, s.Client, calls("tcp", everyone, true, 8443, 9443)...)
				enforce(t, s.Web, configured(t, fmt.Sprintf(`
					web.tcp = [80, 8443]
					[inbound]
					policy = "drop"
					open = [%s]`, tt.open)))
				expect(t, s.Client, slices.Concat(
					calls("tcp", edges, true, 8443),
					calls("tcp", friends, true, 8443),
					calls("tcp", strangers, false, 8443),
					calls("tcp", friends, tt.friend, 9443),
					calls("tcp", slices.Concat(edges, strangers), tt.others, 9443),
				)...)
			})
		}
	}
}

// The same for UDP, which is guarded or open or neither.
func TestInboundPublishedUDPPort(t *testing.T) {
	tests := map[string]struct {
		file           string
		friend, others bool
	}{
		"not open": {"", false, false},
		"guarded":  {"web.udp = [8443]", true, false},
		"open":     {`inbound.open = ["8443/udp"]`, true, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.Container().ListenUDP(":443")
			s.Web.Nft(t, publish)
			expect(t, s.Client, calls("udp", everyone, true, 8443)...)
			enforce(t, s.Web, configured(t, "inbound.policy = \"drop\"\n"+tt.file))
			expect(t, s.Client, slices.Concat(
				calls("udp", friends, tt.friend, 8443),
				calls("udp", slices.Concat(edges, strangers), tt.others, 8443))...)
		})
	}
}

// Neighbours are found again after they were forgotten, and the host is found.
func TestInboundNeighbours(t *testing.T) {
	for _, g := range openGrounds() {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			s, link, _ := g.build(t)
			s.Web.ListenTCP(":22")
			s.Client.ListenTCP(":443")
			w := closedInbound(defaults())
			w.facts = g.facts
			enforce(t, s.Web, w)
			for _, at := range []netip.Addr{lab.Client4, lab.Client6} {
				forgetNeighbours(t, s.Client)
				forgetNeighbours(t, s.Web)
				expect(t, s.Client, calls("tcp", []netip.Addr{at}, true, 22)...)
				forgetNeighbours(t, s.Client)
				forgetNeighbours(t, s.Web)
				expect(t, s.Web, lab.Probe{Network: "tcp", To: netip.AddrPortFrom(at, 443), Admit: true})
			}
			// A question that a router may have passed on is none (RFC 4861, section 7.1.1).
			s.Client.Nft(t, `table inet asked {
				set answered { type ipv6_addr; flags dynamic; size 65535; }
				chain in {
					type filter hook prerouting priority 0
					icmpv6 type nd-neighbor-advert add @answered { ip6 daddr }
				}
			}`)
			for hops, answered := range map[byte]bool{255: true, 254: false} {
				if got := solicit(t, s, link, hops); got != answered {
					t.Errorf("neighbour solicitation with hop limit %d is answered: %t, want %t", hops, got, answered)
				}
			}
		})
	}
}

// solicit asks for the host's hardware address, from an address that is used
// for nothing else, and reports whether an answer came.
func solicit(t *testing.T, s *lab.Site, link string, hops byte) bool {
	t.Helper()
	from := netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", hops))
	body := slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, lab.Web6.AsSlice(), []byte{1, 1}, s.Client.MAC("eth0"))
	signICMP(body, pseudoICMPv6(from, lab.Web6, len(body)))
	sendICMPv6(s, s.Web.MAC(link), lab.IP{From: from, To: lab.Web6, Protocol: unix.IPPROTO_ICMPV6, Payload: body}, hops)
	for deadline := time.Now().Add(300 * time.Millisecond); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(s.Client.NftList(t, "set", "inet", "asked", "answered"), from.String()) {
			return true
		}
	}
	return false
}

// sendICMPv6 sends a packet that has some hops left.
func sendICMPv6(s *lab.Site, to net.HardwareAddr, p lab.IP, hops byte) {
	b := p.Bytes()
	b[7] = hops
	s.Client.SendFrame("eth0", lab.Ethernet(s.Client.MAC("eth0"), to, unix.ETH_P_IPV6, b))
}

// A host that takes its address from a router goes on doing so.
func TestInboundRouterAdvertisement(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Web.Sysctl("net/ipv6/conf/eth0/accept_ra", "2")
	enforce(t, s.Web, closedInbound(defaults()))
	announced := netip.MustParsePrefix("2001:db8:ad::/64")
	router := netip.MustParseAddr("fe80::77")
	prefix := append([]byte{3, 4, 64, 0xc0}, bytes.Repeat([]byte{0, 0, 0x10, 0}, 2)...)
	body := slices.Concat([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, prefix, make([]byte, 4), announced.Addr().AsSlice())
	allNodes := netip.MustParseAddr("ff02::1")
	signICMP(body, pseudoICMPv6(router, allNodes, len(body)))
	sendICMPv6(s, everybody, lab.IP{From: router, To: allNodes, Protocol: unix.IPPROTO_ICMPV6, Payload: body}, 255)
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if slices.ContainsFunc(addressesOf(t, s.Web, "eth0"), announced.Contains) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("LOST router advertisement: the host has no address in %s", announced)
		}
	}
}

func addressesOf(t *testing.T, h *lab.Host, link string) []netip.Addr {
	t.Helper()
	var all []net.Addr
	var err error
	h.Do(func() {
		var i *net.Interface
		if i, err = net.InterfaceByName(link); err == nil {
			all, err = i.Addrs()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	var addresses []netip.Addr
	for _, a := range all {
		ip, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
		addresses = append(addresses, ip.Unmap())
	}
	return addresses
}

// Errors about what the host sent, questions or answers, come in, also of kinds
// that it does not need.
func TestInboundErrorsAboutOwnPackets(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d := newDoorman(t, s.Web)
	s.Web.ListenUDP(":53")
	enforce(t, s.Web, configured(t, inboundConfig))
	datagramLine(t, s, netip.AddrPortFrom(edge4, 7844))
	asked := question{from: netip.AddrPortFrom(edge4, linePort), to: web(edge4, 53), size: 16}
	if err := asked.ask(s.Client); err != nil {
		t.Fatal(err)
	}
	tried := pack([]knock{
		{name: "about a question of the host", family: 4, by: edges, carry: sourceQuench(linePort, 7844), admit: true},
		{name: "about an answer of the host", family: 4, by: edges, carry: sourceQuench(53, linePort), admit: true},
		{name: "about what it never sent", family: 4, by: edges, carry: sourceQuench(linePort, 7845)},
	}, strangerRound, s.Client.MAC("eth0"), s.Web.MAC("eth0"))
	came := d.receive(t, s.Client, tried, func(k packedKnock) bool { return k.admit })
	for _, k := range tried {
		if came[k.number] != k.admit {
			t.Errorf("source quench %s: came in %t, want %t", k.name, came[k.number], k.admit)
		}
	}
}

// sourceQuench is an ICMP error about a datagram to who sends it.
func sourceQuench(source, destination uint16) content {
	return func(from, to netip.Addr, _ uint16) (byte, []byte) {
		about := lab.IP{From: to, To: from, Protocol: unix.IPPROTO_UDP}
		about.Payload = lab.Datagram(netip.AddrPortFrom(to, source), netip.AddrPortFrom(from, destination), nil)
		return unix.IPPROTO_ICMP, signICMP(append([]byte{4, 0, 0, 0, 0, 0, 0, 0}, about.Bytes()...), nil)
	}
}

// What is refused is counted, in its family and nowhere else.
func TestInboundCounters(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	mute(t, s.Client)
	d := newDoorman(t, s.Web)
	enforce(t, s.Web, configured(t, inboundConfig))
	before := settledCounters(t, s.Web)
	d.receive(t, s.Client, pack([]knock{
		{carry: segmentTo(23)},
		{carry: datagramTo(54, 16)},
		{carry: message(13, 0)},
		{family: 6, carry: segmentTo(22), dress: after(options, atomicFragment)},
		{carry: segmentTo(22), admit: true},
		{carry: segmentTo(443)}, // guarded, and counted there
		{by: edges, carry: segmentTo(443), admit: true},
	}, strangerRound, s.Client.MAC("eth0"), s.Web.MAC("eth0")), func(k packedKnock) bool { return k.admit })
	got := settledCounters(t, s.Web)
	for name := range got {
		got[name] -= before[name]
	}
	want := map[string]uint64{
		"dropped_inbound4": 3, "dropped_inbound6": 4, "dropped4": 1, "dropped6": 1,
		"admitted_cloudflare4": 1, "admitted_cloudflare6": 1, "admitted_allowed4": 0, "admitted_allowed6": 0,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("counted (-want +got):\n%s", d)
	}
}
