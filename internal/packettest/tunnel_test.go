package packettest

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
)

// A posture bends what is wanted: how much of a host is closed.
type posture func(wanted) wanted

func asIs(w wanted) wanted { return w }

func tunnelled(w wanted) wanted {
	w.policy.Mode = firewall.ModeTunnel
	return w
}

// untouched are the tests of what no posture disturbs.
var untouched = map[string]func(*testing.T, posture){
	"the host itself":             testHostReachesItself,
	"trusted interfaces":          testTrustedInterfaces,
	"containers to the host":      testContainersReachTheHost,
	"containers to the world":     testContainersReachTheWorld,
	"traffic between other hosts": testForwardedTraffic,
}

func TestTunnelLeavesTheRestAlone(t *testing.T) {
	for name, test := range untouched {
		t.Run(name, func(t *testing.T) { test(t, tunnelled) })
	}
}

// In mode tunnel nobody outside reaches a guarded port, by whatever way it is
// served: not Cloudflare either, from the first and the last address of each
// network.
func TestTunnelRefusesEverybody(t *testing.T) {
	tests := map[string]func(*testing.T, *lab.Site){
		"at the host": func(_ *testing.T, s *lab.Site) {
			s.Web.ListenTCP(":8443")
			s.Web.ListenUDP(":8443")
		},
		"in a container by DNAT": func(t *testing.T, s *lab.Site) {
			container := s.Container()
			container.ListenTCP(":443")
			container.ListenUDP(":443")
			s.Web.Nft(t, publish)
		},
		"in a container by a user proxy": func(t *testing.T, s *lab.Site) {
			s.Container().ListenTCP(":443")
			proxy(t, s.Web, "8443")
			s.Web.ListenUDP(":8443")
		},
	}
	for name, serve := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.Web.ListenTCP(":22", ":80", ":443")
			s.Web.ListenUDP(":443")
			serve(t, s)
			testRefusal(t, s)
		})
	}
}

var guardedPorts = map[string][]uint16{"tcp": {80, 443, 8443}, "udp": {443, 8443}}

func testRefusal(t *testing.T, s *lab.Site) {
	outsiders := everyEdge(s)
	probes := func(who []netip.Addr, admit bool) []lab.Probe {
		var all []lab.Probe
		for network, ports := range guardedPorts {
			all = append(all, calls(network, who, admit, ports...)...)
		}
		return all
	}
	expect(t, s.Client, probes(outsiders, true)...) // where there are no rules

	enforce(t, s.Web, tunnelled(guarding8443()))
	seen := make(map[string]*lab.Arrivals)
	for network, ports := range guardedPorts {
		for _, port := range ports {
			seen[fmt.Sprintf("%s port %d", network, port)] = s.Web.CountArrivals(t, network, port, singles(outsiders...)...)
		}
	}
	refused := probes(outsiders, false)
	expect(t, s.Client, refused...)
	for where, arrivals := range seen {
		expectNonePast(t, "outsiders at "+where, arrivals)
	}
	expect(t, s.Client, probes(friends, true)...)
	expect(t, s.Client, calls("tcp", everyone, true, 22)...) // not guarded
	t.Logf("%d conversations of %d sources refused", len(refused), len(outsiders))
}

// everyEdge gives the client the addresses at the ends of Cloudflare's networks,
// and returns them with the strangers'.
func everyEdge(s *lab.Site) []netip.Addr {
	inside, _ := ends(defaults().lists.Cloudflare.Networks())
	for _, a := range inside {
		if !slices.Contains(edges, a) {
			s.Client.Anycast(single(a))
		}
	}
	return slices.Concat(inside, edges, strangers)
}

// Between the modes only the fate of Cloudflare changes.
func TestTunnelAndBack(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Web.ListenTCP(":80", ":443")
	for _, tunnel := range []bool{false, true, false, true} {
		w := withFriends()
		if tunnel {
			w = tunnelled(w)
		}
		enforce(t, s.Web, w)
		expect(t, s.Client, slices.Concat(
			calls("tcp", edges, !tunnel, 80, 443),
			calls("tcp", friends, true, 80, 443),
			calls("tcp", strangers, false, 80, 443),
		)...)
	}
}

// What goes to port 7844 is counted once, be it the host's or forwarded for a
// container, and what only looks like it is not: answers, to clients who happen
// to use that port too.
func TestTunnelPacketsAreCounted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	container := s.Container()
	s.Web.Nft(t, publish)
	s.Web.ListenTCP(":22", ":7844")
	s.Client.ListenTCP(":22")
	for _, a := range edges {
		s.Client.ListenTCP(netip.AddrPortFrom(a, 7844).String())
		s.Client.ListenUDP(netip.AddrPortFrom(a, 7844).String())
	}
	enforce(t, s.Web, tunnelled(defaults()))
	for name, sender := range map[string]*lab.Host{"the host": s.Web, "a container": container} {
		for _, to := range []netip.Addr{edge4, edge6} {
			for _, network := range []string{"tcp", "udp"} {
				what := fmt.Sprintf("%s to %s by %s", name, to, network)
				expectCounted(t, s, what, network, func() {
					for range 3 {
						expect(t, sender, lab.Probe{Network: network, To: netip.AddrPortFrom(to, 7844), Admit: true})
					}
				})
			}
		}
	}

	before := settledCounters(t, s.Web)
	for _, from := range strangers {
		expect(t, s.Client, calls("tcp", []netip.Addr{from}, true, 7844)...)
		if err := talk(s.Client, netip.AddrPortFrom(from, 7844), web(from, 22)); err != nil {
			t.Errorf("talking from port 7844: %v", err)
		}
	}
	expect(t, s.Web, lab.Probe{Network: "tcp", To: netip.AddrPortFrom(edge4, 22), Admit: true})
	after := settledCounters(t, s.Web)
	for _, counter := range []string{"tunnel_tcp", "tunnel_udp"} {
		if before[counter] != after[counter] {
			t.Errorf("%s counted %d packets that go to nobody's tunnel", counter, after[counter]-before[counter])
		}
	}
}

// expectCounted compares the counters with what comes to the other end.
func expectCounted(t *testing.T, s *lab.Site, what, network string, do func()) {
	t.Helper()
	there := s.Client.CountArrivals(t, network, 7844)
	before := settledCounters(t, s.Web)
	do()
	after := settledCounters(t, s.Web)
	came, _ := there.Read(t)
	if got := int(after["tunnel_"+network] - before["tunnel_"+network]); got != came || came < 3 {
		t.Errorf("%s: counted %d packets, %d came to the other end", what, got, came)
	}
	for _, other := range []string{"tunnel_tcp", "tunnel_udp"} {
		if other != "tunnel_"+network && before[other] != after[other] {
			t.Errorf("%s: %s counts it too", what, other)
		}
	}
}
