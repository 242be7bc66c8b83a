package packettest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/ipranges"
)

// The DNS servers of the web host, and the ports at which the Internet answers.
var (
	resolver4 = netip.MustParseAddr("198.51.100.53")
	resolver6 = netip.MustParseAddr("2001:db8:53::53")

	tcpServices = []string{":22", ":25", ":80", ":8080"}
	udpServices = []string{":123", ":4500", ":33434"}
)

// newOutside is a site whose client is the Internet with Cloudflare in it.
func newOutside(t *testing.T, e lab.Edge) *lab.Site {
	t.Helper()
	s := newSite(t)
	for _, a := range []netip.Addr{resolver4, resolver6} {
		s.Client.Addr("lo", single(a))
	}
	s.Client.Edge(e)
	s.Client.ListenTCP(tcpServices...)
	s.Client.ListenUDP(udpServices...)
	return s
}

// outbound is mode tunnel with nothing but the tunnel let out.
func outbound() wanted {
	w := defaults()
	w.policy.Mode = firewall.ModeTunnel
	w.policy.Outbound.Drop = true
	w.facts = func(h *firewall.Host) { h.Resolvers = []netip.Addr{resolver4, resolver6} }
	return w
}

// strictly is outbound with the documented addresses of a region.
func strictly(region string) wanted {
	w := outbound()
	w.policy.Tunnel.Edge, _ = ipranges.TunnelEdge(region)
	return w
}

func TestOutboundLetsCloudflaredOut(t *testing.T) {
	type run struct {
		name string
		want wanted
		edge lab.Edge
		does lab.Cloudflared
	}
	var runs []run
	for _, region := range ipranges.TunnelRegions() {
		does := lab.Cloudflared{Region: region, Resolver: resolver4}
		runs = append(runs,
			run{region + ", any address of Cloudflare", outbound(), lab.Edge{}, does},
			run{region + ", documented addresses", strictly(region), lab.Edge{}, does})
	}
	runs = append(runs,
		run{"a resolver by IPv6", outbound(), lab.Edge{}, lab.Cloudflared{Region: "global", Resolver: resolver6}},
		run{"a resolver that finds no services", outbound(), lab.Edge{NoSRV: true}, lab.Cloudflared{Region: "global", Resolver: resolver4}},
		run{"a host without IPv6", withoutIPv6(outbound()), lab.Edge{}, lab.Cloudflared{Region: "global", Resolver: resolver4, IPv4: true}},
		run{"a host without IPv6, documented addresses", withoutIPv6(strictly("us")), lab.Edge{}, lab.Cloudflared{Region: "us", Resolver: resolver4, IPv4: true}},
	)
	for _, r := range runs {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := newOutside(t, r.edge)
			if r.does.IPv4 {
				s.Web.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
			}
			enforce(t, s.Web, r.want)
			tried := s.Web.Cloudflared(r.does)
			for _, c := range tried {
				if c.Err != nil {
					t.Errorf("LOST %s: %v", c.What, c.Err)
				}
			}
			// Services, two settings, two regions, the API; to each of 10 addresses
			// of a region TCP and UDP, and to one of the API.
			conversations := 6 + 2*(2*2*10) + 2
			if r.does.IPv4 {
				conversations = 6 + 2*(2*10) + 1
			}
			if len(tried) != conversations {
				t.Errorf("the stand-in had %d conversations, want %d: %v", len(tried), conversations, tried)
			}
		})
	}
}

func withoutIPv6(w wanted) wanted {
	facts := w.facts
	w.facts = func(h *firewall.Host) {
		facts(h)
		h.IPv6 = false
	}
	return w
}

// The stand-in notices what it cannot reach.
func TestOutboundStandInNotices(t *testing.T) {
	t.Parallel()
	s := newOutside(t, lab.Edge{})
	w := strictly("us")
	w.facts = func(*firewall.Host) {} // and no DNS
	enforce(t, s.Web, w)
	failed := make(map[string]bool)
	for _, c := range s.Web.Cloudflared(lab.Cloudflared{Region: "global", Resolver: resolver4}) {
		failed[c.What] = c.Err != nil
	}
	for _, what := range []string{"DNS region1.v2.argotunnel.com.", "DNS region2.v2.argotunnel.com.", "DNS api.cloudflare.com."} {
		if !failed[what] {
			t.Errorf("without DNS %s did not fail", what)
		}
	}
	if failed["DNS over TLS, services"] {
		t.Error("LOST DNS over TLS")
	}
}

// dial tries to converse with a service from any address of the host.
func dial(h *lab.Host, network string, to netip.AddrPort) error {
	return h.Dial(network, netip.Addr{}, to, 3*time.Second)
}

// isRefusal knows the errors by which a program hears at once that it may not send:
// that of the system call itself, or of the ICMP error that comes back.
func isRefusal(network string, err error) bool {
	if network == "tcp" {
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EHOSTUNREACH)
}

// A service somewhere on the Internet.
type service struct {
	network string
	to      netip.AddrPort
}

func (s service) String() string { return s.network + " " + s.to.String() }

// services lists ports of a protocol at each address.
func services(network string, where []netip.Addr, ports ...uint16) []service {
	var all []service
	for _, a := range where {
		for _, p := range ports {
			all = append(all, service{network, netip.AddrPortFrom(a, p)})
		}
	}
	return all
}

// at reads addresses.
func at(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range texts {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// edgesOf are an address of each of a region's hosts and families.
var edgesOf = map[string][]netip.Addr{
	"global": at("198.41.192.7", "198.41.200.233", "2606:4700:a0::1", "2606:4700:a8::10"),
	"us":     at("198.41.218.1", "198.41.219.10", "2606:4700:a1::1", "2606:4700:a9::10"),
	"fed":    at("162.159.234.1", "172.64.234.10", "2a06:98c1:4d::1", "2606:4700:f6::10"),
}

func TestOutboundRefusesTheRest(t *testing.T) {
	resolvers := []netip.Addr{resolver4, resolver6}
	api := []netip.Addr{lab.CloudflareAPI4, lab.CloudflareAPI6}
	beyond := slices.Concat(
		services("tcp", strangers, 22, 25, 53, 80, 443, 853, 7844, 8080),
		services("udp", strangers, 53, 443, 4500, 7844, 33434),
		services("tcp", resolvers, 22, 80, 443, 7844),
		services("udp", resolvers, 443, 853, 7844),
		services("tcp", edges, 22, 80, 853, 8080),
		services("udp", edges, 53, 443, 4500),
		services("tcp", at("1.1.1.1"), 53, 80),
		services("udp", at("1.1.1.1"), 53, 443, 853),
	)
	tests := map[string]struct {
		want    wanted
		passes  []service
		refuses []service
	}{
		"any address of Cloudflare": {
			outbound(),
			slices.Concat(
				services("tcp", slices.Concat(edgesOf["global"], edgesOf["us"], edgesOf["fed"], edges, api), 443, 7844),
				services("udp", slices.Concat(edgesOf["global"], edgesOf["us"], edgesOf["fed"], edges), 7844)),
			beyond,
		},
		"documented addresses": {
			strictly("global"),
			slices.Concat(
				services("tcp", edgesOf["global"], 443, 7844), services("udp", edgesOf["global"], 7844),
				services("tcp", slices.Concat(edgesOf["us"], edges, api), 443)),
			slices.Concat(beyond, elsewhere(edgesOf["us"], edgesOf["fed"], edges, api)),
		},
		"documented addresses of us": {
			strictly("us"),
			slices.Concat(services("tcp", edgesOf["us"], 7844), services("udp", edgesOf["us"], 7844)),
			elsewhere(edgesOf["global"], edgesOf["fed"], edges),
		},
		"documented addresses of fed": {
			strictly("fed"),
			slices.Concat(services("tcp", edgesOf["fed"], 7844), services("udp", edgesOf["fed"], 7844)),
			elsewhere(edgesOf["global"], edgesOf["us"], edges),
		},
		"a resolver that is not known": {
			func() wanted { w := outbound(); w.facts = func(*firewall.Host) {}; return w }(),
			services("tcp", edges, 443),
			slices.Concat(services("tcp", resolvers, 53, 853), services("udp", resolvers, 53)),
		},
		"allow": {
			allowing("25/tcp", "4500/udp", "8080/tcp to "+stranger4.String(), "8080/tcp to "+stranger6.String()),
			slices.Concat(
				services("tcp", slices.Concat(strangers, edges), 25), services("udp", strangers, 4500),
				services("tcp", strangers, 8080)),
			slices.Concat(
				services("udp", strangers, 25, 8080), services("tcp", strangers, 4500, 22),
				services("tcp", slices.Concat(friends, edges), 8080)),
		},
		"allow ranges": {
			allowing("20-30/tcp", "33000-34000/udp to 198.51.100.0/24,2001:db8:bad::/48"),
			slices.Concat(services("tcp", strangers, 22, 25), services("udp", strangers, 33434)),
			slices.Concat(services("tcp", strangers, 80), services("udp", slices.Concat(friends, edges), 33434)),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newOutside(t, lab.Edge{})
			// What answers without rules is refused by them, and by nobody else.
			for _, to := range tt.refuses {
				if to.to.Port() != 53 && to.to.Port() != 853 && slices.Contains(strangers, to.to.Addr()) && answered(to) {
					if err := dial(s.Web, to.network, to.to); err != nil {
						t.Errorf("without rules: %v: %v", to, err)
					}
				}
			}
			left := leaves(t, s)
			enforce(t, s.Web, tt.want)
			before := left.read(t)
			for i, to := range tt.refuses {
				for range 1 + i%3 {
					if err := dial(s.Web, to.network, to.to); !isRefusal(to.network, err) {
						t.Errorf("LEAKED or not refused at once: %v: %v", to, err)
					}
				}
			}
			if n := left.read(t) - before; n != 0 {
				t.Errorf("LEAKED %d packets to services that are refused", n)
			}
			expectRemembered(t, s.Web, tt.refuses)
			for _, to := range tt.passes {
				if err := dial(s.Web, to.network, to.to); err != nil {
					t.Errorf("LOST %v: %v", to, err)
				}
			}
			if left.read(t) == before {
				t.Error("nothing was seen to leave that passes: the refusals prove nothing")
			}
			expectRemembered(t, s.Web, tt.refuses)
		})
	}
}

// elsewhere is the tunnel's port at addresses that are not the tunnel's.
func elsewhere(where ...[]netip.Addr) []service {
	all := slices.Concat(where...)
	return slices.Concat(services("tcp", all, 7844), services("udp", all, 7844))
}

// answered holds for what the Internet of newOutside serves.
func answered(s service) bool {
	port := fmt.Sprintf(":%d", s.to.Port())
	edge := []string{":443", ":7844"}
	if s.network == "udp" {
		return slices.Contains(slices.Concat(udpServices, edge), port)
	}
	return slices.Contains(slices.Concat(tcpServices, edge), port)
}

// allowing is outbound with entries of `outbound.allow`.
func allowing(entries ...string) wanted {
	file := fmt.Sprintf("[outbound]\nallow = [\"%s\"]", strings.Join(entries, `", "`))
	c, err := config.Parse(strings.NewReader(file), "config.toml")
	if err != nil {
		panic(err)
	}
	w := outbound()
	w.policy.Outbound.Allow = c.Policy.Outbound.Allow
	return w
}

// A wire counts the TCP and UDP packets of the web host that come to the client
// and open something.
type wire struct{ client *lab.Host }

func leaves(t *testing.T, s *lab.Site) wire {
	s.Client.Nft(t, `table inet wire {
		counter came { }
		chain in {
			type filter hook prerouting priority -310
			iifname eth0 tcp flags & (syn | ack) == syn counter name came
			iifname eth0 meta l4proto udp counter name came
		}
	}`)
	return wire{s.Client}
}

func (w wire) read(t *testing.T) int {
	return counterValue(t, w.client, "wire", "came")
}

// counterValue reads the packets of a counter.
func counterValue(t *testing.T, h *lab.Host, table, counter string) (packets int) {
	t.Helper()
	out := h.NftList(t, "counter", "inet", table, counter)
	_, figures, _ := strings.Cut(out, "packets ")
	if _, err := fmt.Sscan(figures, &packets); err != nil {
		t.Fatalf("%s: reading counter %s: %v in %q", h, counter, err, out)
	}
	return packets
}

// expectRemembered compares the counters and the memory of the kernel with what
// was refused: the first once, the second twice, the third three times, the
// fourth once again.
func expectRemembered(t *testing.T, h *lab.Host, refused []service) {
	t.Helper()
	want := make(map[string]uint64)
	total := make(map[string]uint64)
	for i, s := range refused {
		n := uint64(1 + i%3)
		want[s.String()] += n
		total[map[bool]string{true: "rejected_outbound4", false: "rejected_outbound6"}[s.to.Addr().Is4()]] += n
	}
	got := make(map[string]uint64)
	for _, r := range remembered(t, h) {
		got[service{r.Protocol, r.Peer}.String()] = r.Packets
		if time.Since(r.Last).Abs() > time.Minute {
			t.Errorf("%v was last refused at %v", r, r.Last)
		}
	}
	for s, n := range want {
		if got[s] != n {
			t.Errorf("%s: %d packets are remembered, want %d", s, got[s], n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d destinations are remembered, want %d: %v", len(got), len(want), got)
	}
	counters := readCounters(t, h)
	for name, n := range total {
		if counters[name] != n {
			t.Errorf("counter %s is %d, want %d", name, counters[name], n)
		}
	}
}

func remembered(t *testing.T, h *lab.Host) []kernel.Remembered {
	t.Helper()
	var all []kernel.Remembered
	var err error
	h.Do(func() { all, err = kernel.New().Remembered(t.Context(), firewall.FamilyINET, "rejected4", "rejected6") })
	if err != nil {
		t.Fatal(err)
	}
	return all
}
