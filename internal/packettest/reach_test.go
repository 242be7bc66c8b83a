package packettest

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/ipranges"
)

func TestFirstAndLastAddressOfEveryNetwork(t *testing.T) {
	tests := map[string]struct {
		facts    func(*firewall.Host)
		families func(ipranges.List) []netip.Prefix
	}{
		"host as it is":         {func(*firewall.Host) {}, ipranges.List.Networks},
		"host that forwards":    {func(h *firewall.Host) { h.Forwards = true }, ipranges.List.Networks},
		"host that does not":    {func(h *firewall.Host) { h.Forwards = false }, ipranges.List.Networks},
		"host that has no IPv6": {func(h *firewall.Host) { h.IPv6 = false }, ipranges.List.V4},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := defaults()
			w.facts = tt.facts
			testEnds(t, w, tt.families(w.lists.Cloudflare))
		})
	}
}

func testEnds(t *testing.T, w wanted, networks []netip.Prefix) {
	s := newSite(t)
	inside, outside := ends(networks)
	for _, a := range slices.Concat(inside, outside) {
		if !slices.Contains(edges, a) {
			s.Client.Anycast(single(a))
		}
	}
	s.Web.ListenTCP(":80", ":443")
	s.Web.ListenUDP(":443")
	enforce(t, s.Web, w)

	for _, port := range []uint16{80, 443} {
		outsiders := s.Web.CountArrivals(t, "tcp", port, singles(outside...)...)
		insiders := s.Web.CountArrivals(t, "tcp", port, singles(inside...)...)
		probes := slices.Concat(calls("tcp", inside, true, port), calls("tcp", outside, false, port))
		expect(t, s.Client, probes...)
		expectNonePast(t, fmt.Sprintf("outsiders at port %d", port), outsiders)
		if before, after := insiders.Read(t); before < len(inside) || before != after {
			t.Errorf("insiders at port %d: %d packets came, %d got past the firewall; want all", port, before, after)
		}
	}
	quic := s.Web.CountArrivals(t, "udp", 443)
	expect(t, s.Client, calls("udp", slices.Concat(inside, outside), false, 443)...)
	expectNonePast(t, "everybody at UDP port 443", quic)
}

func TestPolicyDecidesWhoPasses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Web.ListenTCP(":22", ":80", ":443")
	s.Web.ListenUDP(":53", ":443")
	enforce(t, s.Web, withFriends())
	expect(t, s.Client, slices.Concat(
		calls("tcp", edges, true, 80, 443),
		calls("tcp", friends, true, 80, 443),
		calls("tcp", strangers, false, 80, 443),
		calls("udp", edges, false, 443),
		calls("udp", friends, true, 443),
		calls("udp", strangers, false, 443),
		calls("tcp", strangers, true, 22), // other ports are none of our business
		calls("udp", strangers, true, 53),
	)...)
}

func TestRangesOfPorts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Web.ListenTCP(":7999", ":8000", ":8005", ":8010", ":8011", ":443")
	s.Web.ListenUDP(":4999", ":5000", ":5010", ":5011")
	w := defaults()
	w.policy.TCP = []firewall.PortRange{{First: 443, Last: 443}, {First: 8000, Last: 8010}}
	w.policy.UDP = []firewall.PortRange{{First: 5000, Last: 5010}}
	enforce(t, s.Web, w)
	expect(t, s.Client, slices.Concat(
		calls("tcp", edges, true, 443, 8000, 8005, 8010),
		calls("tcp", strangers, false, 443, 8000, 8005, 8010),
		calls("tcp", strangers, true, 7999, 8011),
		calls("udp", strangers, false, 5000, 5010),
		calls("udp", strangers, true, 4999, 5011),
	)...)
}

func TestHostReachesItself(t *testing.T) { testHostReachesItself(t, asIs) }

func testHostReachesItself(t *testing.T, p posture) {
	t.Parallel()
	s := newSite(t)
	s.Web.ListenTCP(":80", ":443")
	s.Web.ListenUDP(":443")
	enforce(t, s.Web, p(defaults()))
	var probes []lab.Probe
	for _, to := range []string{"127.0.0.1", "127.0.0.53", "::1", lab.Web4.String(), lab.Web6.String()} {
		for _, service := range []struct {
			network string
			port    uint16
		}{{"tcp", 80}, {"tcp", 443}, {"udp", 443}} {
			probes = append(probes, lab.Probe{
				Network: service.network, Admit: true,
				To: netip.AddrPortFrom(netip.MustParseAddr(to), service.port),
			})
		}
	}
	expect(t, s.Web, probes...)
}

func TestTrustedInterfaces(t *testing.T) { testTrustedInterfaces(t, asIs) }

func testTrustedInterfaces(t *testing.T, p posture) {
	tests := map[string]struct {
		trusted []string
		link    string
		admit   bool
	}{
		"by name":                       {[]string{"vpn0"}, "vpn0", true},
		"a longer name":                 {[]string{"vpn0"}, "vpn01", false},
		"a shorter name":                {[]string{"vpn01"}, "vpn0", false},
		"by pattern":                    {[]string{"wg*"}, "wg7", true},
		"the pattern's beginning":       {[]string{"wg*"}, "wg", true},
		"another name than the pattern": {[]string{"wg*"}, "xwg0", false},
		"a name of 15 bytes":            {[]string{"vpn456789012345"}, "vpn456789012345", true},
		"nobody asked for it":           {nil, "wg0", false},
		"a bridge of the operator":      {nil, "br-wan", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.Net.Connect(s.Client, "vpn", s.Web, tt.link)
			s.Client.Addr("vpn", netip.MustParsePrefix("10.9.0.1/24"))
			s.Web.Addr(tt.link, netip.MustParsePrefix("10.9.0.2/24"))
			s.Web.ListenTCP(":443")
			s.Web.ListenUDP(":443")
			w := p(defaults())
			w.policy.Interfaces = tt.trusted
			enforce(t, s.Web, w)
			from, to := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddrPort("10.9.0.2:443")
			expect(t, s.Client,
				lab.Probe{Network: "tcp", From: from, To: to, Admit: tt.admit},
				lab.Probe{Network: "udp", From: from, To: to, Admit: tt.admit})
			expect(t, s.Client, calls("tcp", strangers, false, 443)...) // by eth0
		})
	}
}

// A temporary entry in one of Cloudflare's networks must neither clash with it
// nor take it away: at its end only what the entry alone admitted ends.
func TestTemporaryEntriesExpire(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Web.ListenTCP(":443")
	s.Web.ListenUDP(":443")
	w := defaults()
	expires := time.Now().Add(2 * time.Second)
	for _, a := range slices.Concat(strangers, edges) {
		w.lists.Temporary = append(w.lists.Temporary, firewall.Temporary{Network: single(a), Expires: expires})
	}
	enforce(t, s.Web, w)
	expect(t, s.Client, slices.Concat(
		calls("tcp", strangers, true, 443), calls("udp", strangers, true, 443),
		calls("tcp", edges, true, 443), calls("udp", edges, true, 443),
		calls("tcp", friends, false, 443),
	)...)
	// The kernel gets whole seconds, rounded: half a second more at most.
	time.Sleep(time.Until(expires.Add(time.Second)))
	expect(t, s.Client, slices.Concat(
		calls("tcp", strangers, false, 443), calls("udp", strangers, false, 443),
		calls("tcp", edges, true, 443), calls("udp", edges, false, 443),
	)...)
}
