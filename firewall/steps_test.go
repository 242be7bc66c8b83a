package firewall_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
	"github.com/cfwall/cfwall/ipranges"
)

// TestSteps writes plans down: a blank line is the end of a transaction.
func TestSteps(t *testing.T) {
	now := time.Now()
	allow := func(s *cases.Situation, network string, left time.Duration) {
		s.Lists.Temporary = append(s.Lists.Temporary, firewall.Temporary{Network: netip.MustParsePrefix(network), Expires: now.Add(left)})
	}
	tests := map[string]struct {
		before, change func(*cases.Situation)
		want           string
	}{
		"nothing": {change: func(*cases.Situation) {}},
		"the change of April 2021": { // 104.16.0.0/12 went, two parts of it stayed
			before: func(s *cases.Situation) { s.Lists.Cloudflare = list("104.16.0.0/12 2606:4700::/32") },
			change: func(s *cases.Situation) {
				s.Lists.Cloudflare = list("104.16.0.0/13 104.24.0.0/14 2606:4700::/32")
			},
			want: `
delete element inet cfwall cloudflare4 { 104.16.0.0/12 }
add element inet cfwall cloudflare4 { 104.16.0.0/13, 104.24.0.0/14 }
`,
		},
		"a merge": {
			before: func(s *cases.Situation) { s.Lists.Cloudflare = list("104.16.0.0/13 2606:4700::/32 2606:4702::/32") },
			change: func(s *cases.Situation) { s.Lists.Cloudflare = list("104.16.0.0/12 2606:4700::/30") },
			want: `
delete element inet cfwall cloudflare4 { 104.16.0.0/13 }
add element inet cfwall cloudflare4 { 104.16.0.0/12 }
delete element inet cfwall cloudflare6 { 2606:4700::/32, 2606:4702::/32 }
add element inet cfwall cloudflare6 { 2606:4700::/30 }
`,
		},
		"a list and rules": {
			change: func(s *cases.Situation) {
				s.Lists.Cloudflare = list("104.24.0.0/14 2606:4700::/32")
				s.Policy.UDP = nil
			},
			want: `
add element inet cfwall cloudflare4 { 104.24.0.0/14 }

flush chain inet cfwall guard
add rule inet cfwall guard tcp dport { 80, 443 } goto cloudflare comment "guarded TCP ports"
flush chain inet cfwall fragments
add rule inet cfwall fragments tcp dport { 80, 443 } goto cloudflare comment "guarded TCP ports"
add rule inet cfwall fragments ip6 nexthdr 44 meta l4proto != 255 accept comment "a fragment that shows its port, or belongs to one that does"
add rule inet cfwall fragments goto cloudflare comment "a fragment that hides its port"

delete element inet cfwall cloudflare4 { 104.16.0.0/13 }
`,
		},
		"the first allow entry": {
			change: func(s *cases.Situation) { s.Policy.Allow, s.Host.IPv6 = list("192.0.2.0/24"), true },
			want: `
add element inet cfwall allowed4 { 192.0.2.0/24 }

flush chain inet cfwall closed
add rule inet cfwall closed iif lo accept comment "this host itself"
add rule inet cfwall closed ip saddr @allowed4 counter name "admitted_allowed4" accept comment "an allow entry"
add rule inet cfwall closed meta nfproto ipv6 counter name "dropped6" drop comment "everyone else"
add rule inet cfwall closed counter name "dropped4" drop comment "everyone else"
`,
		},
		"an expiry that is near enough": {
			before: func(s *cases.Situation) { allow(s, "192.0.2.1/32", time.Hour) },
			change: func(s *cases.Situation) { s.Lists.Temporary[0].Expires = now.Add(time.Hour + 5*time.Second) },
		},
		"an expiry that moved": {
			before: func(s *cases.Situation) { allow(s, "192.0.2.1/32", time.Hour) },
			change: func(s *cases.Situation) {
				s.Lists.Temporary = nil
				allow(s, "192.0.2.1/32", 2*time.Hour+200*time.Millisecond)
			},
			want: `
delete element inet cfwall allowed4 { 192.0.2.1 }
add element inet cfwall allowed4 { 192.0.2.1 timeout 2h0m0s }
`,
		},
		"temporary becomes permanent": {
			before: func(s *cases.Situation) { allow(s, "192.0.2.1/32", time.Hour) },
			change: func(s *cases.Situation) { s.Policy.Allow, s.Lists.Temporary = list("192.0.2.1/32"), nil },
			want: `
delete element inet cfwall allowed4 { 192.0.2.1 }
add element inet cfwall allowed4 { 192.0.2.1 }
`,
		},
		"interfaces": {
			before: func(s *cases.Situation) { s.Policy.Interfaces = []string{"wg0", "wg1"} },
			change: func(s *cases.Situation) { s.Policy.Interfaces = []string{"wg1", "wg2"} },
			want: `
add element inet cfwall trusted_interfaces { "wg2" }

delete element inet cfwall trusted_interfaces { "wg0" }
`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := ordinary()
			if tt.before != nil {
				tt.before(&s)
			}
			have := s.Build(t)
			tt.change(&s)
			plan := firewall.MakePlan(firewall.State{Table: &have, Generation: 7}, s.Build(t))
			if diff := gocmp.Diff(strings.TrimPrefix(tt.want, "\n"), plan.String()); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
			if plan.Empty() != (tt.want == "") || plan.Generation != 7 {
				t.Errorf("empty: %t, generation %d", plan.Empty(), plan.Generation)
			}
		})
	}
}

// TestHookComesLast: a base chain in the transaction that makes the sets would
// look into empty ones.
func TestHookComesLast(t *testing.T) {
	plan := firewall.MakePlan(firewall.State{}, ordinary().Build(t))
	if len(plan.Steps) != 2 {
		t.Fatalf("%d steps:\n%s", len(plan.Steps), plan)
	}
	for _, op := range plan.Steps[0] {
		switch op.(type) {
		case firewall.AddTable, firewall.AddSet, firewall.AddElements, firewall.AddCounter:
		default:
			t.Errorf("the first step has %q", op)
		}
	}
}

// TestDormantTableWakes before anything else is done to it.
func TestDormantTableWakes(t *testing.T) {
	want := ordinary().Build(t)
	have := *clone(&want)
	have.Flags, have.Hold = 1, firewall.Plain
	plan := firewall.MakePlan(firewall.State{Table: &have}, want)
	if got := plan.String(); got != "add table inet cfwall\n" {
		t.Errorf("got %q", got)
	}
	have.Chains = nil
	plan = firewall.MakePlan(firewall.State{Table: &have}, want)
	if got := plan.String(); !strings.HasPrefix(got, "add table inet cfwall\n\nadd chain inet cfwall guard") {
		t.Errorf("got %q", got)
	}
}

// TestHold is about who may change the table.
func TestHold(t *testing.T) {
	s := ordinary()
	s.Lists.Cloudflare = list("104.24.0.0/14 192.0.2.1/32 2606:4700::/32")
	want := s.Build(t)
	plan := func(have, best firewall.Hold, flags uint32) string {
		table := *clone(&want)
		table.Hold, table.Flags = have, flags
		return firewall.MakePlan(firewall.State{Table: &table, Best: best}, want).String()
	}
	for _, best := range []firewall.Hold{"", firewall.Plain, firewall.Orphan} {
		for _, have := range []firewall.Hold{firewall.Plain, firewall.Orphan, firewall.Foreign} {
			if got := plan(have, best, 0); got != "" {
				t.Errorf("%s, and the best is %s: %q", have, best, got)
			}
		}
	}
	const adopt = "add table inet cfwall { flags owner,persist; }\n"
	if got := plan(firewall.Orphan, firewall.Owned, 0); got != adopt {
		t.Errorf("an orphan: %q", got)
	}
	if got := plan(firewall.Orphan, firewall.Owned, 1); got != adopt {
		t.Errorf("an orphan that sleeps: %q", got)
	}
	if got := plan(firewall.Orphan, firewall.Orphan, 1); got != "add table inet cfwall { flags persist; }\n" {
		t.Errorf("an orphan that sleeps, for a command: %q", got)
	}
	got := plan(firewall.Plain, firewall.Owned, 0)
	anew, looks, _ := strings.Cut(got, "\n\n")
	for _, line := range []string{
		"delete table inet cfwall\nadd table inet cfwall { comment \"kept by cfwall: see cfwall status\"; flags owner,persist; }\n",
		"add rule inet cfwall cloudflare ip saddr 104.24.0.0/14 counter name \"admitted_cloudflare4\" accept",
		"add rule inet cfwall cloudflare ip saddr 192.0.2.1 counter name \"admitted_cloudflare4\" accept",
	} {
		if !strings.Contains(anew, line) {
			t.Errorf("no %q in:\n%s", line, anew)
		}
	}
	if strings.Contains(anew, "saddr @") || !strings.Contains(looks, "saddr @cloudflare4") {
		t.Errorf("rules look into sets that are empty:\n%s", got)
	}
}

// TestBentTable puts together what a plan must undo in the right order: the
// kernel refuses to delete what is referred to.
func TestBentTable(t *testing.T) {
	rule := func(e firewall.Expr) firewall.Rule { return firewall.Rule{Code: []firewall.Expr{e}} }
	lead := func(to string) firewall.Rule {
		return rule(firewall.Verdict{Kind: firewall.Goto, Goto: to})
	}
	without := func(r *firewall.Ruleset, name string) {
		r.Chains = slices.DeleteFunc(r.Chains, chainNamed(name))
	}
	emptyGuard := func(r *firewall.Ruleset) []firewall.Chain {
		guard, _ := r.Chain("guard")
		guard.Rules = nil
		return []firewall.Chain{guard}
	}
	tests := map[string]func(*firewall.Ruleset){
		"chains lead to each other": func(r *firewall.Ruleset) {
			r.Chains = append(r.Chains, firewall.Chain{Name: "y"}, firewall.Chain{Name: "x", Rules: []firewall.Rule{lead("y")}})
		},
		"the table is dormant, and guard at another hook": func(r *firewall.Ruleset) {
			r.Flags = 1
			r.Chains[0].Hook.Priority = 0
		},
		"a foreign chain looks into a foreign set": func(r *firewall.Ruleset) {
			r.Sets = append(r.Sets, firewall.Set{Name: "x", Type: firewall.TypeIPv4})
			r.Chains = append(r.Chains, firewall.Chain{Name: "x", Rules: []firewall.Rule{rule(firewall.InSet{Name: "x"})}})
		},
		"a foreign chain looks into a set of another shape": func(r *firewall.Ruleset) {
			r.Sets[0].Foreign = "flags"
			r.Chains = append(r.Chains, firewall.Chain{Name: "x", Rules: []firewall.Rule{rule(firewall.InSet{Name: r.Sets[0].Name})}})
		},
		"a chain is missing and a set has another shape": func(r *firewall.Ruleset) {
			r.Chains = emptyGuard(r)
			r.Sets[0].Foreign = "flags"
		},
		"a counter is missing and a set has another shape": func(r *firewall.Ruleset) {
			r.Counters = nil
			for i := range r.Chains {
				r.Chains[i].Rules = nil
			}
			r.Sets[0].Type, r.Sets[0].Elements = firewall.TypeIPv6, nil
		},
		"guard is no base chain, and something leads to it": func(r *firewall.Ruleset) {
			without(r, "guard")
			r.Chains = append(r.Chains, firewall.Chain{Name: "guard"}, firewall.Chain{Name: "x", Rules: []firewall.Rule{lead("guard")}})
		},
		"guard is no base chain, and a chain of ours leads to it": func(r *firewall.Ruleset) {
			without(r, "guard")
			r.Chains = append(r.Chains, firewall.Chain{Name: "guard"})
			r.Chains[0].Rules = append(slices.Clone(r.Chains[0].Rules), lead("guard"))
		},
		"a chain of ours is a base chain, and a set has another shape": func(r *firewall.Ruleset) {
			r.Chains = append(emptyGuard(r), firewall.Chain{Name: "cloudflare", Hook: firewall.Hook{Point: "prerouting"}})
			r.Sets[0].Foreign = "flags"
		},
	}
	for name, bend := range tests {
		t.Run(name, func(t *testing.T) {
			want := ordinary().Build(t)
			have := *clone(&want)
			have.Hold = firewall.Plain
			bend(&have)
			m := model{table: clone(&have)}
			plan := firewall.MakePlan(firewall.State{Table: &have}, want)
			for i, step := range plan.Steps {
				if err := m.step(step); err != nil {
					t.Fatalf("step %d of:\n%s\n%v", i+1, plan, err)
				}
			}
			m.table.Hold = want.Hold
			if diff := gocmp.Diff(sorted(want), sorted(*m.table), sameValues); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestLongLists changes a third of 3,000 networks.
func TestLongLists(t *testing.T) {
	s := ordinary()
	random := rand.New(rand.NewPCG(1, 2))
	s.Lists.Cloudflare = randomList(random, 3000)
	have := s.Build(t)
	s.Lists.Cloudflare = randomList(random, 1000).Union(s.Lists.Cloudflare.Minus(randomList(random, 1000)))
	want := s.Build(t)
	plan := firewall.MakePlan(firewall.State{Table: &have}, want)
	if len(plan.Steps) != 2 { // widen, narrow
		t.Errorf("%d transactions", len(plan.Steps))
	}
	m := model{table: clone(&have)}
	for _, step := range plan.Steps {
		if err := m.step(step); err != nil {
			t.Fatal(err)
		}
	}
	if diff := gocmp.Diff(sorted(want), sorted(*m.table), sameValues); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

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

func TestRemovePlan(t *testing.T) {
	have := ordinary().Build(t)
	if plan := firewall.RemovePlan(firewall.State{Table: &have, Generation: 7}, have.Family); plan.String() != "delete table inet cfwall\n" || plan.Generation != 7 {
		t.Errorf("got %q, generation %d", plan, plan.Generation)
	}
	if plan := firewall.RemovePlan(firewall.State{}, firewall.FamilyIP); !plan.Empty() {
		t.Errorf("without a table: %q", plan)
	}
}
