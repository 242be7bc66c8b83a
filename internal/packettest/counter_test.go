package packettest

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
)

func TestCountersSurviveChanges(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Web.ListenTCP(":443")
	w := withFriends()
	enforce(t, s.Web, w)
	expect(t, s.Client, slices.Concat(
		calls("tcp", edges, true, 443), calls("tcp", friends, true, 443), calls("tcp", strangers, false, 443))...)
	before := settledCounters(t, s.Web)
	for _, name := range []string{"admitted_cloudflare4", "admitted_cloudflare6", "admitted_allowed4", "admitted_allowed6", "dropped4", "dropped6"} {
		if before[name] == 0 {
			t.Errorf("counter %s is 0 after such packets: %v", name, before)
		}
	}

	changes := []struct {
		name   string
		change func()
	}{
		{"another list", func() { w.lists.Cloudflare = w.lists.Cloudflare.Minus(list("104.24.0.0/14", "2c0f:f248::/32")) }},
		{"a list without the edge", func() { w.lists.Cloudflare = w.lists.Cloudflare.Minus(list("104.16.0.0/13", "2606:4700::/32")) }},
		{"more ports", func() { w.policy.TCP = append(w.policy.TCP, ports(8443, ephemeral)...) }},
		{"nobody allowed", func() { w.policy.Allow = list() }},
		{"another host", func() { w.facts = func(h *firewall.Host) { h.Forwards = !h.Forwards } }},
		{"an interface", func() { w.policy.Interfaces = []string{"vpn0", "wg*"} }},
	}
	for _, c := range changes {
		c.change()
		if !enforce(t, s.Web, w) {
			t.Errorf("%s: changed nothing", c.name)
		}
		if d := cmp.Diff(before, settledCounters(t, s.Web)); d != "" {
			t.Errorf("%s: the counters changed (-before +after):\n%s", c.name, d)
		}
	}
	expect(t, s.Client, calls("tcp", edges, false, 443)...)
	if after := settledCounters(t, s.Web); after["dropped4"] <= before["dropped4"] || after["dropped6"] <= before["dropped6"] {
		t.Errorf("the counters do not go on: %v, then %v", before, after)
	}
}

// settledCounters reads the counters of packets once nothing is under way.
func settledCounters(t *testing.T, h *lab.Host) map[string]uint64 {
	t.Helper()
	for last := readCounters(t, h); ; {
		time.Sleep(20 * time.Millisecond)
		now := readCounters(t, h)
		if maps.Equal(now, last) {
			return now
		}
		last = now
	}
}

func readCounters(t *testing.T, h *lab.Host) map[string]uint64 {
	t.Helper()
	packets := make(map[string]uint64)
	for _, c := range readState(t, h).Table.Counters {
		packets[c.Name] = c.Packets
	}
	return packets
}

func readState(t *testing.T, h *lab.Host) firewall.State {
	t.Helper()
	var state firewall.State
	var err error
	h.Do(func() { state, err = kernel.New().Read(t.Context(), firewall.FamilyINET) })
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func TestNothingToDoWritesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	w := guarding8443()
	w.policy.TCP = append(w.policy.TCP, firewall.PortRange{First: ephemeral, Last: ephemeral + 7})
	w.policy.Interfaces = []string{"vpn0", "wg*"}
	w.lists.Temporary = []firewall.Temporary{
		{Network: single(stranger4), Expires: time.Now().Add(time.Hour)},
		{Network: single(stranger6), Expires: time.Now().Add(time.Hour)},
	}
	if !enforce(t, s.Web, w) {
		t.Fatal("the first pass changed nothing")
	}
	before := readState(t, s.Web).Generation
	for i := range 100 {
		if enforce(t, s.Web, w) {
			t.Errorf("pass %d changed something", i)
		}
	}
	if after := readState(t, s.Web).Generation; after != before {
		t.Errorf("100 passes with nothing to do: generation %d became %d", before, after)
	}
}
