package packettest

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"go4.org/netipx"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/ipranges"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// Who tries to get in. The edge's addresses are Cloudflare's, the friend's are
// in [allow] from, the stranger's are nobody's.
var (
	edge4     = netip.MustParseAddr("104.16.0.1")
	edge6     = netip.MustParseAddr("2606:4700::1")
	friend4   = netip.MustParseAddr("203.0.113.7")
	friend6   = netip.MustParseAddr("2001:db8:f::7")
	stranger4 = netip.MustParseAddr("198.51.100.7")
	stranger6 = netip.MustParseAddr("2001:db8:bad::7")
)

var (
	edges     = []netip.Addr{edge4, edge6}
	friends   = []netip.Addr{friend4, friend6}
	strangers = []netip.Addr{stranger4, stranger6}
)

// newSite is a site whose client has the addresses of everybody.
func newSite(t *testing.T) *lab.Site {
	t.Helper()
	lab.Kernel(t)
	s := lab.NewSite(t)
	for _, a := range slices.Concat(edges, friends, strangers) {
		s.Client.Addr("lo", single(a))
	}
	return s
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func singles(addrs ...netip.Addr) []netip.Prefix {
	var networks []netip.Prefix
	for _, a := range addrs {
		networks = append(networks, single(a))
	}
	return networks
}

// web names a port of the web host in the family of who calls.
func web(caller netip.Addr, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(pick(caller, lab.Web4, lab.Web6), port)
}

// pick chooses by the family of an address.
func pick(family, v4, v6 netip.Addr) netip.Addr {
	if family.Is4() {
		return v4
	}
	return v6
}

// A wanted ruleset: the default one, until a test bends it.
type wanted struct {
	policy firewall.Policy
	lists  firewall.Lists
	// facts bends what is known about the host.
	facts func(*firewall.Host)
}

func defaults() wanted {
	return wanted{
		policy: config.Default().Policy,
		lists:  firewall.Lists{Cloudflare: ipranges.Embedded().List},
		facts:  func(*firewall.Host) {},
	}
}

// withFriends is the default policy with the friends in [allow] from.
func withFriends() wanted {
	w := defaults()
	w.policy.Allow = ipranges.NewList(singles(friends...)...)
	return w
}

func ports(numbers ...uint16) []firewall.PortRange {
	var ranges []firewall.PortRange
	for _, n := range numbers {
		ranges = append(ranges, firewall.PortRange{First: n, Last: n})
	}
	return firewall.MergePorts(ranges)
}

// enforce makes one pass as the daemon does: read the host and the kernel,
// plan, apply, and read again whether all is as wanted. It reports whether it
// had to change anything.
func enforce(t *testing.T, h *lab.Host, w wanted) (changed bool) {
	t.Helper()
	var err error
	var left firewall.Plan
	h.Do(func() { changed, left, err = w.pass(t) })
	if err != nil {
		t.Fatalf("%s: enforcing: %v", h, err)
	}
	if !left.Empty() {
		t.Fatalf("%s: the kernel does not hold what was applied; it would still take:\n%s", h, strings.Join(left.Summary(), "\n"))
	}
	return changed
}

func (w wanted) pass(t *testing.T) (changed bool, left firewall.Plan, err error) {
	host, err := kernel.ReadHost()
	if err != nil {
		return false, left, err
	}
	w.facts(&host)
	want, err := firewall.Build(w.policy, w.lists, host)
	if err != nil {
		return false, left, err
	}
	k := kernel.New()
	have, err := k.Read(t.Context(), want.Family)
	if err != nil {
		return false, left, err
	}
	plan := firewall.MakePlan(have, want)
	if err := k.Apply(t.Context(), plan); err != nil {
		return false, left, err
	}
	have, err = k.Read(t.Context(), want.Family)
	return !plan.Empty(), firewall.MakePlan(have, want), err
}

// expect tries probes and reports each that did not go as it should.
func expect(t *testing.T, from *lab.Host, probes ...lab.Probe) {
	t.Helper()
	for _, r := range lab.Unexpected(from.DialMany(probes)) {
		switch {
		case r.Admit:
			t.Errorf("LOST %v: %v", r.Probe, r.Err)
		case r.Err == nil:
			t.Errorf("LEAKED %v", r.Probe)
		default:
			t.Errorf("LEAKED %v: something came back: %v", r.Probe, r.Err)
		}
	}
}

// calls makes a probe for each caller, of either family, to each port of the web host.
func calls(network string, callers []netip.Addr, admit bool, ports ...uint16) []lab.Probe {
	var probes []lab.Probe
	for _, from := range callers {
		for _, port := range ports {
			probes = append(probes, lab.Probe{Network: network, From: from, To: web(from, port), Admit: admit})
		}
	}
	return probes
}

// expectNonePast checks by the counters on both sides of the firewall that
// packets came and none got past. Time plays no part in that.
func expectNonePast(t *testing.T, who string, seen *lab.Arrivals) {
	t.Helper()
	before, after := seen.Read(t)
	if before == 0 || after != 0 {
		t.Errorf("LEAKED or never tried: of %s %d packets came, %d got past the firewall", who, before, after)
	}
}

// ends gives the first and the last address of each network, and those just
// outside the ranges that the networks make up together.
func ends(networks []netip.Prefix) (inside, outside []netip.Addr) {
	var b netipx.IPSetBuilder
	for _, n := range networks {
		inside = append(inside, n.Addr(), netipx.PrefixLastIP(n))
		b.AddPrefix(n)
	}
	set, err := b.IPSet()
	if err != nil {
		panic(err)
	}
	for _, r := range set.Ranges() {
		outside = append(outside, r.From().Prev(), r.To().Next())
	}
	return inside, outside
}
