package packettest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
)

func audited(w wanted) wanted {
	w.policy.Audit = true
	return w
}

// With audit everybody gets everywhere, under every mode and policy; who would
// be dropped or rejected is counted and listed, and nobody else is; and without
// audit they are dropped at once.
func TestAudit(t *testing.T) {
	for _, c := range combinations(func(combination) bool { return true }) {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			s := newOutside(t, lab.Edge{})
			s.Web.ListenTCP(":80", ":443", ":22", ":3306")
			s.Web.ListenUDP(":443", ":53")
			admitted, refused := auditVisits(c)
			sent := auditSent()
			enforce(t, s.Web, audited(c.wanted()))
			expect(t, s.Client, slices.Concat(admitted, admit(refused, true))...)
			expect(t, s.Web, admit(sent, true)...)
			if !c.outbound {
				sent = nil
			}
			expectListed(t, s.Web, refused, sent)

			enforce(t, s.Web, c.wanted())
			expect(t, s.Client, slices.Concat(admitted, refused)...)
			for _, p := range sent {
				if err := dial(s.Web, p.Network, p.To); !isRefusal(p.Network, err) {
					t.Errorf("LEAKED %v: %v", p, err)
				}
			}
			enforce(t, s.Web, audited(c.wanted()))
			expect(t, s.Client, admit(refused, true)...)
		})
	}
}

// auditVisits are conversations that a combination admits, and those that it refuses.
func auditVisits(c combination) (admitted, refused []lab.Probe) {
	outsiders := slices.Concat(edges, strangers)
	throughCloudflare := calls("tcp", edges, c.mode == firewall.ModeCloudflare, 80, 443)
	elsewhere := slices.Concat(calls("tcp", outsiders, !c.inbound, 3306), calls("udp", outsiders, !c.inbound, 53))
	for _, p := range slices.Concat(throughCloudflare, elsewhere,
		calls("tcp", outsiders, true, 22), calls("tcp", strangers, false, 80, 443), calls("udp", outsiders, false, 443)) {
		if p.Admit {
			admitted = append(admitted, p)
		} else {
			refused = append(refused, p)
		}
	}
	return admitted, refused
}

// auditSent is what the host sends that [outbound] refuses.
func auditSent() []lab.Probe {
	var sent []lab.Probe
	for _, to := range strangers {
		sent = append(sent, lab.Probe{Network: "tcp", To: netip.AddrPortFrom(to, 25)}, lab.Probe{Network: "udp", To: netip.AddrPortFrom(to, 4500)})
	}
	return sent
}

func admit(probes []lab.Probe, all bool) []lab.Probe {
	probes = slices.Clone(probes)
	for i := range probes {
		probes[i].Admit = all
	}
	return probes
}

// expectListed compares what the kernel remembers with the conversations that
// would not have been, and with the counters, packet by packet.
func expectListed(t *testing.T, h *lab.Host, visits, sent []lab.Probe) {
	t.Helper()
	want := make(map[string]bool)
	for _, p := range visits {
		want[fmt.Sprintf("%s from %s to %d", p.Network, p.From, p.To.Port())] = true
	}
	for _, p := range sent {
		want[fmt.Sprintf("%s to %s", p.Network, p.To)] = true
	}
	for { // until no packet came while the kernel was read
		counters := settledCounters(t, h)
		got, packets := listedByAudit(t, h)
		if !maps.Equal(counters, readCounters(t, h)) {
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("listed (-want +got):\n%s", d)
		}
		if d := cmp.Diff(packets, countedByAudit(t, counters)); d != "" {
			t.Errorf("packets (-listed +counted):\n%s", d)
		}
		return
	}
}

// listedByAudit says what the kernel remembers, and sums up the packets.
func listedByAudit(t *testing.T, h *lab.Host) (what map[string]bool, packets map[string]uint64) {
	t.Helper()
	what, packets = make(map[string]bool), make(map[string]uint64)
	for _, suffix := range []string{"4", "6"} {
		for _, r := range listed(t, h, firewall.WouldBeDropped+suffix) {
			what[fmt.Sprintf("%s from %s to %d", r.Protocol, r.Peer.Addr(), r.Peer.Port())] = true
			packets["dropped"+suffix] += r.Packets
		}
		for _, r := range listed(t, h, firewall.WouldBeRejected+suffix) {
			what[fmt.Sprintf("%s to %s", r.Protocol, r.Peer)] = true
			packets["rejected"+suffix] += r.Packets
		}
	}
	return what, packets
}

func listed(t *testing.T, h *lab.Host, set string) []kernel.Remembered {
	t.Helper()
	var all []kernel.Remembered
	var err error
	h.Do(func() { all, err = kernel.New().Remembered(t.Context(), firewall.FamilyINET, set) })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// countedByAudit sums up the counters of what passed in audit mode. There is
// none of what was dropped.
func countedByAudit(t *testing.T, counters map[string]uint64) map[string]uint64 {
	t.Helper()
	packets := make(map[string]uint64)
	for name, n := range counters {
		refused, inAudit := strings.CutPrefix(name, firewall.WouldBe)
		if !inAudit && !strings.HasPrefix(name, "admitted_") && !strings.HasPrefix(name, "tunnel_") {
			t.Errorf("in audit mode there is a counter %s", name)
		}
		if inAudit && n > 0 {
			packets[strings.NewReplacer("_inbound", "", "_outbound", "").Replace(refused)] += n
		}
	}
	return packets
}

// Under flood audit begins and ends without the loss of a packet that the policy
// admits, and while it lasts without the loss of any.
func TestAuditUnderFlood(t *testing.T) {
	s := newBusy(t)
	c := combination{firewall.ModeTunnel, true, true}
	other := combination{firewall.ModeCloudflare, false, false}
	tests := map[string]struct {
		visits []wanted
		admits []string // besides what all admit
	}{
		"begins and ends": {[]wanted{audited(c.wanted()), c.wanted()}, nil},
		"goes on":         {[]wanted{audited(c.wanted()), audited(other.wanted())}, []string{"edge", "closed", "astray", "guarded"}},
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		tt := tests[name]
		t.Run(name, func(t *testing.T) {
			enforce(t, s.Web, tt.visits[len(tt.visits)-1])
			start := time.Now()
			seen := s.underFlood(t, func() {
				for range amount(8, 100) {
					for _, w := range tt.visits {
						enforce(t, s.Web, w)
					}
				}
			})
			t.Logf("%v: %v", time.Since(start).Round(time.Millisecond), seen)
			seen.check(t, append(tt.admits, "open", "tunnel in", "tunnel out"), nil)
		})
	}
}

// More strangers than the kernel remembers get in all the same, and are counted.
func TestAuditOfACrowd(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Web.ListenTCP(":443")
	enforce(t, s.Web, audited(defaults()))
	crowd := []netip.Addr{netip.MustParseAddr("203.0.112.0")}
	for len(crowd) < 4*firewall.RememberedSize {
		crowd = append(crowd, crowd[len(crowd)-1].Next())
	}
	for sent := 0; sent < 2*len(crowd); {
		ctx, done := context.WithTimeout(t.Context(), 100*time.Millisecond)
		n, err := s.Client.Flood(ctx, "udp", crowd, web(stranger4, 443))
		done()
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	expect(t, s.Client, calls("tcp", strangers, true, 443)...)
	n, counted := len(listed(t, s.Web, firewall.WouldBeDropped+"4")), readCounters(t, s.Web)[firewall.WouldBeDropped+"4"]
	if n < firewall.RememberedSize/2 || n > firewall.RememberedSize || counted < uint64(len(crowd)) {
		t.Errorf("of a crowd of %d, %d are listed and %d packets counted", len(crowd), n, counted)
	}
}
