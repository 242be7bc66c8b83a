package kernel

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/ipranges"
)

// The clients' addresses, each 32 of which some are on lists.
var (
	clients4 = netip.MustParsePrefix("198.51.100.0/27")
	clients6 = netip.MustParsePrefix("2001:db8:5::/123")
)

// The web host's address on its second link, a VPN to the clients.
var (
	vpn4 = netip.MustParseAddr("10.9.0.2")
	vpn6 = netip.MustParseAddr("fd09::2")
)

var guardable = []string{":80", ":443", ":8000", ":8001", ":8002", ":8003", ":9000"}

// newVPN is a site with a second link between its hosts.
func newVPN(t *testing.T) *lab.Site {
	lab.Kernel(t)
	s := lab.NewSite(t)
	s.Client.Anycast(clients4)
	s.Client.Anycast(clients6)
	s.Net.Connect(s.Client, "wg0", s.Web, "wg0")
	s.Client.Addr("wg0", netip.PrefixFrom(vpn4.Prev(), 24))
	s.Client.Addr("wg0", netip.PrefixFrom(vpn6.Prev(), 64))
	s.Web.Addr("wg0", netip.PrefixFrom(vpn4, 24))
	s.Web.Addr("wg0", netip.PrefixFrom(vpn6, 64))
	s.Web.ListenTCP(guardable...)
	s.Web.ListenUDP(guardable...)
	return s
}

// TestDecideTellsWhatPacketsMeet compares what Decide says with what becomes of
// connections, of which there are 200.
func TestDecideTellsWhatPacketsMeet(t *testing.T) {
	site := newVPN(t)
	h := host{site.Web, New()}
	random := newRandom()
	admitted, conversations := 0, 0
	for range 4 {
		want := randomSituation(random).Build(t)
		h.enforce(t, want)
		table := h.read(t, want.Family).Table
		var outside, inside []lab.Probe
		for range 50 {
			packet, probe := randomPacket(random)
			decision := want.Decide(packet)
			if back := table.Decide(packet); back.Verdict != decision.Verdict || !back.Certain || !decision.Certain {
				t.Errorf("%+v: wanted %+v, read back %+v", packet, decision, back)
			}
			probe.Admit = decision.Verdict == firewall.Accept
			conversations++
			if probe.Admit {
				admitted++
			}
			if packet.Interface == "lo" {
				inside = append(inside, probe)
			} else {
				outside = append(outside, probe)
			}
		}
		for _, r := range append(lab.Unexpected(site.Client.DialMany(outside)), lab.Unexpected(site.Web.DialMany(inside))...) {
			t.Errorf("%s: Decide admits: %t; the conversation: %v\n%s", r.Probe, r.Admit, r.Err, want)
		}
	}
	t.Logf("%d of %d admitted", admitted, conversations)
	if admitted < conversations/4 || admitted > conversations*3/4 {
		t.Errorf("%d of %d were admitted, which tells little", admitted, conversations)
	}
}

func randomSituation(random *rand.Rand) cases.Situation {
	networks := func(n int) ipranges.List {
		var all []netip.Prefix
		for range n {
			all = append(all, netip.PrefixFrom(randomAddress(random, clients4), 29+random.IntN(4)), netip.PrefixFrom(randomAddress(random, clients6), 125+random.IntN(4)))
		}
		return ipranges.NewList(all...)
	}
	s := cases.Situation{
		Policy: firewall.Policy{
			Mode:  firewall.ModeCloudflare,
			TCP:   []firewall.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}, {First: 8001, Last: 8003}},
			UDP:   []firewall.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}, {First: 8000, Last: 8001}},
			Allow: networks(random.IntN(3)),
		},
		Lists: firewall.Lists{Cloudflare: networks(2)},
		Host: firewall.Host{
			IPv6: true, Forwards: random.IntN(2) == 0,
			Ephemeral: []firewall.PortRange{{First: 8002, Last: 8003}},
		},
	}
	for _, n := range networks(1).Networks() {
		s.Lists.Temporary = append(s.Lists.Temporary, firewall.Temporary{Network: n, Expires: time.Now().Add(time.Hour)})
	}
	s.Policy.Interfaces = [][]string{nil, {"wg0"}, {"wg*"}, {"wg1", "w*"}}[random.IntN(4)]
	return s
}

func randomAddress(random *rand.Rand, of netip.Prefix) netip.Addr {
	b := of.Addr().AsSlice()
	last := b[len(b)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)|random.Uint32N(32))
	a, _ := netip.AddrFromSlice(b)
	return a
}

// randomPacket returns the first packet of a conversation, and the conversation.
func randomPacket(random *rand.Rand) (firewall.Packet, lab.Probe) {
	p := firewall.Packet{
		Protocol:  []string{"tcp", "udp"}[random.IntN(2)],
		Port:      []uint16{80, 443, 443, 8000, 8001, 8002, 8003, 9000}[random.IntN(8)],
		Interface: []string{"eth0", "eth0", "eth0", "eth0", "wg0", "wg0", "lo"}[random.IntN(7)],
		Opening:   true,
	}
	family := random.IntN(2)
	p.Source = randomAddress(random, []netip.Prefix{clients4, clients6}[family])
	to := map[string][]netip.Addr{"eth0": {lab.Web4, lab.Web6}, "wg0": {vpn4, vpn6}, "lo": {lab.Web4, lab.Web6}}[p.Interface][family]
	if p.Interface == "lo" {
		p.Source = to
	}
	return p, lab.Probe{Network: p.Protocol, From: p.Source, To: netip.AddrPortFrom(to, p.Port)}
}

// TestRepliesToOwnConnections connects from a guarded port: the answer comes in
// as a packet for that port.
func TestRepliesToOwnConnections(t *testing.T) {
	site := newVPN(t)
	h := host{site.Web, New()}
	site.Client.ListenTCP(":9000")
	const port = 8005
	guarded := []firewall.PortRange{{First: port, Last: port}}
	s := cases.Situation{
		Policy: firewall.Policy{Mode: firewall.ModeCloudflare, TCP: guarded},
		Lists:  firewall.Lists{Cloudflare: ipranges.NewList(clients4, clients6)},
		Host:   firewall.Host{IPv6: true},
	}
	for ephemeral, connects := range map[bool]bool{true: true, false: false} {
		s.Host.Ephemeral = nil
		if ephemeral {
			s.Host.Ephemeral = guarded
		}
		h.enforce(t, s.Build(t))
		from := &net.TCPAddr{IP: lab.Web4.AsSlice(), Port: port}
		dialer := net.Dialer{LocalAddr: from, Timeout: 300 * time.Millisecond}
		if connects {
			dialer.Timeout = 3 * time.Second
		}
		var conn net.Conn
		var err error
		h.Do(func() { conn, err = dialer.Dial("tcp", netip.AddrPortFrom(lab.Client4, 9000).String()) })
		if (err == nil) != connects {
			t.Errorf("ephemeral %t: %v", ephemeral, err)
		}
		if err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0) // so that the port is free again at once
			conn.Close()
		}
	}
}

// TestPacketsForOthersPass: what a host only forwards is not its business, but
// a published port of a container is its own.
func TestPacketsForOthersPass(t *testing.T) {
	site := newVPN(t)
	h := host{site.Web, New()}
	site.Container().ListenTCP(":443", ":8443")
	site.Client.Route(netip.PrefixFrom(lab.Container4, 16).Masked(), lab.Web4, "eth0")
	site.Client.Route(netip.PrefixFrom(lab.Container6, 64).Masked(), lab.Web6, "eth0")
	h.Nft(t, `table inet nat { chain prerouting {
		type nat hook prerouting priority dstnat
		iifname eth0 tcp dport 8001 dnat ip to 172.17.0.2:443
		iifname eth0 tcp dport 8001 dnat ip6 to [fd00:17::2]:443
		}
	}`)
	s := cases.Situation{
		Policy: firewall.Policy{Mode: firewall.ModeCloudflare, TCP: []firewall.PortRange{{First: 443, Last: 443}, {First: 8001, Last: 8001}}},
		Lists:  firewall.Lists{Cloudflare: ipranges.NewList(clients4, clients6)},
		Host:   cases.Ordinary(),
	}
	for _, forwards := range []bool{true, false} {
		s.Host.Forwards = forwards
		h.enforce(t, s.Build(t))
		tcp := func(from, to netip.Addr, port uint16, admit bool) lab.Probe {
			return lab.Probe{Network: "tcp", From: from, To: netip.AddrPortFrom(to, port), Admit: admit}
		}
		probes := []lab.Probe{
			tcp(lab.Client4, lab.Container4, 443, forwards),
			tcp(lab.Client6, lab.Container6, 443, forwards),
			tcp(lab.Client4, lab.Container4, 8443, true),
			tcp(lab.Client4, lab.Web4, 8001, false),
			tcp(lab.Client6, lab.Web6, 8001, false),
			tcp(clients4.Addr(), lab.Web4, 8001, true),
			tcp(clients6.Addr(), lab.Web6, 8001, true),
		}
		for _, r := range lab.Unexpected(site.Client.DialMany(probes)) {
			t.Errorf("forwards %t: %s: want %t, got %v", forwards, r.Probe, r.Admit, r.Err)
		}
	}
}
