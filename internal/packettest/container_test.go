package packettest

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/cfwall/cfwall/internal/lab"
)

// everyone is who may try a port that is not guarded.
var everyone = slices.Concat(edges, friends, strangers)

// publish makes the web host hand ports to a container as container engines do.
const publish = `table inet engine {
	chain prerouting {
		type nat hook prerouting priority dstnat
		fib daddr type local tcp dport { 8443, 9443 } dnat ip to 172.17.0.2:443
		fib daddr type local tcp dport { 8443, 9443 } dnat ip6 to [fd00:17::2]:443
		fib daddr type local udp dport 8443 dnat ip to 172.17.0.2:443
		fib daddr type local udp dport 8443 dnat ip6 to [fd00:17::2]:443
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname eth0 ip saddr 172.17.0.0/16 masquerade
		oifname eth0 ip6 saddr fd00:17::/64 masquerade
	}
}`

// guarding8443 is withFriends and port 8443 too.
func guarding8443() wanted {
	w := withFriends()
	w.policy.TCP, w.policy.UDP = ports(80, 443, 8443), ports(443, 8443)
	return w
}

// publications are the ways in which container engines publish TCP ports.
var publications = map[string]func(*testing.T, *lab.Host){
	"by DNAT":         func(t *testing.T, web *lab.Host) { web.Nft(t, publish) },
	"by a user proxy": func(t *testing.T, web *lab.Host) { proxy(t, web, "8443"); proxy(t, web, "9443") },
}

func TestPublishedPortsAreGuarded(t *testing.T) {
	for name, publish := range publications {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.Container().ListenTCP(":443")
			publish(t, s.Web)
			expect(t, s.Client, calls("tcp", everyone, true, 8443, 9443)...)

			enforce(t, s.Web, guarding8443())
			seen := s.Web.CountArrivals(t, "tcp", 8443, singles(strangers...)...)
			expect(t, s.Client, slices.Concat(
				calls("tcp", edges, true, 8443),
				calls("tcp", friends, true, 8443),
				calls("tcp", strangers, false, 8443),
				calls("tcp", everyone, true, 9443), // published, but not guarded
			)...)
			expectNonePast(t, "strangers at the published port", seen)
		})
	}
}

func TestPublishedUDPPortIsGuarded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Container().ListenUDP(":443")
	s.Web.Nft(t, publish)
	expect(t, s.Client, calls("udp", everyone, true, 8443)...)
	enforce(t, s.Web, guarding8443())
	expect(t, s.Client, slices.Concat(
		calls("udp", edges, false, 8443),
		calls("udp", friends, true, 8443),
		calls("udp", strangers, false, 8443),
	)...)
}

// A container that listens on 443 is not reached by the host's port 443: the
// edge hears that nobody is there, a stranger hears nothing.
func TestContainerPortThatIsNotPublished(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Container().ListenTCP(":443")
	s.Web.Nft(t, publish)
	enforce(t, s.Web, guarding8443())
	for _, from := range edges {
		if err := s.Client.Dial("tcp", from, web(from, 443), time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s at port 443: got %v, want a refusal by the host itself", from, err)
		}
	}
	expect(t, s.Client, calls("tcp", strangers, false, 443)...)
}

// proxy serves a port of the web host as docker-proxy does: it accepts there
// and connects to the container from there.
func proxy(t *testing.T, h *lab.Host, port string) {
	t.Helper()
	var l net.Listener
	var err error
	h.Do(func() { l, err = net.Listen("tcp", ":"+port) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				var container net.Conn
				var err error
				h.Do(func() { container, err = net.Dial("tcp", netip.AddrPortFrom(lab.Container4, 443).String()) })
				if err != nil {
					return
				}
				defer container.Close()
				go func() { io.Copy(container, client) }()
				io.Copy(client, container)
			}()
		}
	}()
}

func TestContainersReachTheHost(t *testing.T) { testContainersReachTheHost(t, asIs) }

func testContainersReachTheHost(t *testing.T, p posture) {
	for name, trusted := range map[string]bool{"container_bridges = true": true, "container_bridges = false": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			container := s.Container()
			s.Web.ListenTCP(":80", ":443")
			s.Web.ListenUDP(":443")
			w := p(defaults())
			w.policy.ContainerBridges = trusted
			enforce(t, s.Web, w)
			var probes []lab.Probe
			for _, to := range []netip.Addr{lab.Container4.Prev(), lab.Container6.Prev(), lab.Web4, lab.Web6} {
				probes = append(probes,
					lab.Probe{Network: "tcp", To: netip.AddrPortFrom(to, 80), Admit: trusted},
					lab.Probe{Network: "tcp", To: netip.AddrPortFrom(to, 443), Admit: trusted},
					lab.Probe{Network: "udp", To: netip.AddrPortFrom(to, 443), Admit: trusted})
			}
			expect(t, container, probes...)
			expect(t, s.Client, calls("tcp", strangers, false, 443)...)
		})
	}
}

// What containers ask of servers elsewhere comes back, whatever the port there
// and here: source NAT may give a connection any port from 1024 on.
func TestContainersReachTheWorld(t *testing.T) { testContainersReachTheWorld(t, asIs) }

func testContainersReachTheWorld(t *testing.T, p posture) {
	t.Parallel()
	s := newSite(t)
	container := s.Container()
	s.Web.Nft(t, publish)
	s.Client.ListenTCP(":80", ":443")
	s.Client.ListenUDP(":443")
	enforce(t, s.Web, p(guarding8443()))
	for _, to := range []netip.Addr{lab.Client4, lab.Client6, edge4, edge6} {
		expect(t, container,
			lab.Probe{Network: "tcp", To: netip.AddrPortFrom(to, 80), Admit: true},
			lab.Probe{Network: "tcp", To: netip.AddrPortFrom(to, 443), Admit: true},
			lab.Probe{Network: "udp", To: netip.AddrPortFrom(to, 443), Admit: true})
		from := netip.AddrPortFrom(pick(to, lab.Container4, lab.Container6), 8443)
		if err := talk(container, from, netip.AddrPortFrom(to, 443)); err != nil {
			t.Errorf("LOST connection of a container to %s, by way of the guarded port 8443: %v", to, err)
		}
	}
}

// The hosts behind a router have web ports of their own.
func TestForwardedTraffic(t *testing.T) { testForwardedTraffic(t, asIs) }

func testForwardedTraffic(t *testing.T, p posture) {
	t.Parallel()
	s := newSite(t)
	behind4, behind6 := netip.MustParsePrefix("198.18.0.2/24"), netip.MustParsePrefix("2001:db8:2::2/64")
	other := s.Net.Host("other")
	s.Net.Connect(s.Web, "eth1", other, "eth0")
	for _, p := range []netip.Prefix{behind4, behind6} {
		gateway := p.Addr().Prev()
		s.Web.Addr("eth1", netip.PrefixFrom(gateway, p.Bits()))
		other.Addr("eth0", p)
		other.Route(netip.PrefixFrom(pick(gateway, netip.IPv4Unspecified(), netip.IPv6Unspecified()), 0), gateway, "eth0")
		s.Client.Route(p.Masked(), pick(gateway, lab.Web4, lab.Web6), "eth0")
	}
	s.Web.Sysctl("net/ipv4/ip_forward", "1")
	s.Web.Sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, h := range []*lab.Host{s.Web, s.Client, other} {
		h.ListenTCP(":80", ":443")
		h.ListenUDP(":443")
	}
	enforce(t, s.Web, p(defaults()))

	services := func(from, to netip.Addr) []lab.Probe {
		return []lab.Probe{
			{Network: "tcp", From: from, To: netip.AddrPortFrom(to, 80), Admit: true},
			{Network: "tcp", From: from, To: netip.AddrPortFrom(to, 443), Admit: true},
			{Network: "udp", From: from, To: netip.AddrPortFrom(to, 443), Admit: true},
		}
	}
	for _, from := range everyone {
		inside := pick(from, behind4.Addr(), behind6.Addr())
		expect(t, s.Client, services(from, inside)...)
		expect(t, other, services(inside, from)...)
	}
	expect(t, s.Client, calls("tcp", strangers, false, 80, 443)...) // the router itself
	expect(t, other,
		lab.Probe{Network: "tcp", To: netip.MustParseAddrPort("198.18.0.1:443")},
		lab.Probe{Network: "tcp", To: netip.MustParseAddrPort("[2001:db8:2::1]:443")},
		lab.Probe{Network: "udp", To: netip.MustParseAddrPort("198.18.0.1:443")})
}
