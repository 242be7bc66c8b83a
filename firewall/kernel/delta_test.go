package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/ipranges"
)

func (h host) remove(t lab.T, family firewall.Family) {
	t.Helper()
	var err error
	h.Do(func() { err = h.kernel.Remove(context.Background(), family) })
	if err != nil {
		t.Fatalf("removing: %v", err)
	}
}

// change applies one plan and expects that to be enough.
func (h host) change(t lab.T, want firewall.Ruleset) {
	t.Helper()
	plan := firewall.MakePlan(h.read(t, want.Family), want)
	if err := h.apply(plan); err != nil {
		t.Fatalf("%v\nplan:\n%s", err, plan)
	}
	h.expect(t, want)
}

// TestAnyPolicyToAnyOther goes from nothing to one policy, and on to another.
func TestAnyPolicyToAnyOther(t *testing.T) {
	h := newHost(t)
	rapid.Check(t, func(t *rapid.T) {
		drawn := cases.Situations(time.Now())
		old, next := drawn.Draw(t, "old"), drawn.Draw(t, "new")
		next.Host.IPv6 = old.Host.IPv6
		for _, s := range []cases.Situation{old, next} {
			want, err := firewall.Build(s.Policy, s.Lists, s.Host)
			if err != nil {
				t.Fatal(err)
			}
			h.change(t, want)
		}
		h.remove(t, family(old))
	})
}

func family(s cases.Situation) firewall.Family {
	if s.Host.IPv6 {
		return firewall.FamilyINET
	}
	return firewall.FamilyIP
}

// TestPlanTextDoesTheSame gives what `cfwall plan` prints to nft, a
// transaction at a time.
func TestPlanTextDoesTheSame(t *testing.T) {
	h := newHost(t)
	names := []string{"default", "everything", "port-ranges", "temporary", "ends", "interfaces", "tcp-none", "container-bridges"}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			want := cases.Load(t, name).Build(t)
			plan := firewall.MakePlan(h.read(t, want.Family), want)
			for transaction := range strings.SplitSeq(plan.String(), "\n\n") {
				h.nft(t, transaction+"\n", "-f", "-")
			}
			h.expect(t, want)
		})
	}
}

// TestLists changes the list and nothing else, which is one transaction or, if
// networks both come and go, two.
func TestLists(t *testing.T) {
	random := newRandom()
	long := randomList(random, 3000)
	tests := []struct {
		name     string
		from, to ipranges.List
	}{
		{"April 2021", list("104.16.0.0/12 2606:4700::/32"), list("104.16.0.0/13 104.24.0.0/14 2606:4700::/32")},
		{"and back", list("104.16.0.0/13 104.24.0.0/14 2606:4700::/32"), list("104.16.0.0/12 2606:4700::/32")},
		{"everything splits", list("0.0.0.0/0 ::/0"), list("0.0.0.0/1 192.0.0.0/2 ::/1 c000::/2")},
		{"and merges", list("0.0.0.0/1 192.0.0.0/2 ::/1 c000::/2"), list("0.0.0.0/0 ::/0")},
		{"to the first address", list("128.0.0.0/1 8000::/1"), list("0.0.0.0/32 ::/128")},
		{"to the last address", list("128.0.0.0/1 8000::/1"), list("255.255.255.255/32 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")},
		{"from the last address", list("255.255.255.255/32 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"), list("255.255.255.254/32 ffff::/16")},
		{"next to the last address", list("255.255.255.254/32 255.255.255.0/25 ::/128"), list("255.255.255.255/32 255.255.255.0/25 ::1/128")},
		{"neighbours", list("192.0.2.0/25 192.0.3.0/25 ::/128"), list("192.0.2.128/25 192.0.3.128/25 ::/128")},
		{"a third of 3,000", long, randomList(random, 1000).Union(long.Minus(randomList(random, 1000)))},
		{"another 3,000", long, randomList(random, 3000)},
		{"3,000 become few", long, list("0.0.0.0/7 2001:db8::/32")},
		{"few become 3,000", list("0.0.0.0/7 2001:db8::/32"), long},
	}
	h := newHost(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := ordinary(t)
			s.Lists.Cloudflare = tt.from
			h.change(t, s.Build(t))
			s.Lists.Cloudflare = tt.to
			want := s.Build(t)
			if plan := firewall.MakePlan(h.read(t, want.Family), want); len(plan.Steps) > 2 {
				t.Errorf("%d transactions", len(plan.Steps))
			}
			h.change(t, want)
			if diff := cmp.Diff(tt.to.String(), h.networks(t).String()); diff != "" {
				t.Errorf("networks in the kernel (-want +got):\n%s", diff)
			}
		})
	}
}

// networks reads the list back.
func (h host) networks(t *testing.T) ipranges.List {
	t.Helper()
	table := h.read(t, firewall.FamilyINET).Table
	var networks []netip.Prefix
	for _, name := range []string{"cloudflare4", "cloudflare6"} {
		set, _ := table.Set(name)
		for _, e := range set.Elements {
			networks = append(networks, e.Range.Prefixes()...)
		}
	}
	return ipranges.NewList(networks...)
}

// list makes a List of words.
func list(networks string) ipranges.List {
	var all []netip.Prefix
	for word := range strings.FieldsSeq(networks) {
		all = append(all, netip.MustParsePrefix(word))
	}
	return ipranges.NewList(all...)
}

// newRandom gives the same numbers each time.
func newRandom() *rand.Rand { return rand.New(rand.NewPCG(3, 4)) }

// randomList makes networks of 1 to 4,096 addresses of both families, of which
// some touch or overlap.
func randomList(random *rand.Rand, n int) ipranges.List {
	networks := make([]netip.Prefix, n)
	for i := range networks {
		var a [16]byte
		copy(a[:], []byte{0x20, 0x01, 0x0d, 0xb8})
		binary.BigEndian.PutUint32(a[12:], random.Uint32N(1<<26))
		address, bits := netip.AddrFrom16(a), 116
		if i%2 == 0 {
			address, bits = netip.AddrFrom4([4]byte(a[12:])), 20
		}
		networks[i] = netip.PrefixFrom(address, bits+random.IntN(13)).Masked()
	}
	return ipranges.NewList(networks...)
}

// TestTemporaryEntriesExpire: the kernel takes them away, which is no change
// that anybody must repair, and entries that overlap them can come.
func TestTemporaryEntriesExpire(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	s := ordinary(t)
	s.Policy.Allow = list("192.0.2.0/24 2001:db8:1::/48")
	s.Lists.Temporary = temporary(time.Second, "198.51.100.0/24", "203.0.113.0/24", "203.0.114.0/23", "255.255.255.255/32", "2001:db8::/64")
	h.change(t, s.Build(t))
	s.Lists.Temporary = nil
	want := s.Build(t)
	for deadline := time.Now().Add(5 * time.Second); !firewall.MakePlan(h.read(t, want.Family), want).Empty(); {
		if time.Now().After(deadline) {
			t.Fatalf("still to do:\n%s", firewall.MakePlan(h.read(t, want.Family), want))
		}
		time.Sleep(20 * time.Millisecond)
	}
	// Wider, the same, beside it, narrower.
	s.Lists.Temporary = temporary(time.Hour, "198.51.0.0/16", "203.0.113.0/24", "203.0.112.0/24", "255.255.255.0/24", "2001:db8::1/128")
	h.change(t, s.Build(t))
}

// TestEntryExpiresBeforeItIsDeleted: what the plan would delete is gone, which
// the next plan knows.
func TestEntryExpiresBeforeItIsDeleted(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	s := ordinary(t)
	s.Policy.Allow = list("192.0.2.0/24")
	s.Lists.Temporary = temporary(time.Second, "198.51.100.0/24")
	h.change(t, s.Build(t))
	s.Lists.Temporary = nil
	want := s.Build(t)
	plan := firewall.MakePlan(h.read(t, want.Family), want)
	if plan.Empty() {
		t.Fatal("there is nothing to delete")
	}
	time.Sleep(1500 * time.Millisecond)
	if err := h.apply(plan); err != nil && !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
	h.enforce(t, want)
}

func temporary(left time.Duration, networks ...string) []firewall.Temporary {
	var entries []firewall.Temporary
	for _, n := range networks {
		entries = append(entries, firewall.Temporary{Network: netip.MustParsePrefix(n), Expires: time.Now().Add(left)})
	}
	return entries
}
