package firewall_test

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
)

// sorted puts the parts of a ruleset into an order that does not depend on how
// it came about.
func sorted(r firewall.Ruleset) firewall.Ruleset {
	r = *clone(&r)
	for i := range r.Sets {
		r.Sets[i].Elements = slices.SortedFunc(slices.Values(r.Sets[i].Elements), func(a, b firewall.Element) int {
			return cmp.Or(a.Range.From().Compare(b.Range.From()), strings.Compare(a.Name, b.Name))
		})
	}
	slices.SortFunc(r.Sets, func(a, b firewall.Set) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(r.Counters, func(a, b firewall.Counter) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(r.Chains, func(a, b firewall.Chain) int { return strings.Compare(a.Name, b.Name) })
	return r
}

func build(t *rapid.T, s cases.Situation) firewall.Ruleset {
	t.Helper()
	r, err := firewall.Build(s.Policy, s.Lists, s.Host)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// decide tells what becomes of a packet; without a table all are admitted.
func decide(table *firewall.Ruleset, p firewall.Packet) firewall.VerdictKind {
	if table == nil {
		return firewall.Accept
	}
	return table.Decide(p).Verdict
}

// TestPlanKeepsPromises goes from one policy to another, step by step: no step
// is refused, none drops what both admit or admits what both drop, and the
// last leads to what is wanted. What the old policy admits with the new lists,
// or the new policy with the old lists, may pass in between, as if one of them
// had changed a moment before the other.
func TestPlanKeepsPromises(t *testing.T) {
	now := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		next := cases.Situations(now).Draw(t, "new")
		want := build(t, next)
		m := model{}
		var between []firewall.Ruleset
		if old := cases.Situations(now).Draw(t, "old"); rapid.IntRange(0, 9).Draw(t, "has a table") > 0 {
			old.Host.IPv6 = next.Host.IPv6 // tables of different families are different tables
			r := build(t, old)
			r.Hold = rapid.SampledFrom([]firewall.Hold{firewall.Plain, firewall.Orphan, firewall.Owned}).Draw(t, "hold")
			m.table, between = &r, []firewall.Ruleset{build(t, withLists(old, next)), build(t, withLists(next, old))}
		}
		old := m.table
		packets := cases.Packets(next.Host.IPv6)
		best := rapid.SampledFrom([]firewall.Hold{firewall.Plain, firewall.Orphan, firewall.Owned}).Draw(t, "best")
		plan := firewall.MakePlan(firewall.State{Table: old, Best: best}, want)
		for i, step := range plan.Steps {
			if err := m.step(step); err != nil {
				t.Fatalf("step %d of:\n%s\n%v", i+1, plan, err)
			}
			for _, p := range packets {
				before, after, now := decide(old, p), decide(&want, p), decide(m.table, p)
				mayPass := slices.ContainsFunc(between, func(r firewall.Ruleset) bool { return now == firewall.Accept && decide(&r, p) == now })
				if before == after && now != before && !mayPass {
					t.Fatalf("after step %d of:\n%s\n%+v is %d, before and in the end it is %d", i+1, plan, p, now, before)
				}
			}
		}
		m.expect(t, want)
		if best == firewall.Owned && m.table.Hold != best || old == nil && m.table.Hold != best {
			t.Fatalf("a table that could be %s is %s", best, m.table.Hold)
		}
	})
}

// withLists is a policy with the lists of another situation.
func withLists(s, other cases.Situation) cases.Situation {
	s.Lists, s.Policy.Allow = other.Lists, other.Policy.Allow
	s.Policy.Interfaces, s.Policy.ContainerBridges = other.Policy.Interfaces, other.Policy.ContainerBridges
	s.Host.Bridges, s.Host.Resolvers = other.Host.Bridges, other.Host.Resolvers
	if s.Policy.Tunnel.Edge.Len() > 0 && other.Policy.Tunnel.Edge.Len() > 0 {
		s.Policy.Tunnel.Edge = other.Policy.Tunnel.Edge
	}
	return s
}

func (m *model) expect(t *rapid.T, want firewall.Ruleset) {
	t.Helper()
	if m.table == nil {
		t.Fatal("there is no table")
	}
	got := *m.table
	got.Family, got.Hold = want.Family, want.Hold
	if diff := gocmp.Diff(sorted(want), sorted(got), sameValues); diff != "" {
		t.Fatalf("the plan led elsewhere (-want +got):\n%s", diff)
	}
	if plan := firewall.MakePlan(firewall.State{Table: m.table}, want); !plan.Empty() {
		t.Fatalf("there is still something to do:\n%s", plan)
	}
}

// TestPlanRepairs begins with tables that somebody has bent.
func TestPlanRepairs(t *testing.T) {
	now := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		next := cases.Situations(now).Draw(t, "new")
		want := build(t, next)
		old := cases.Situations(now).Draw(t, "old")
		old.Host.IPv6 = next.Host.IPv6
		bent := build(t, old)
		bent.Hold = rapid.SampledFrom([]firewall.Hold{firewall.Plain, firewall.Orphan}).Draw(t, "hold")
		for range rapid.IntRange(1, 6).Draw(t, "edits") {
			bend(t, &bent)
		}
		m := model{table: clone(&bent)}
		best := rapid.SampledFrom([]firewall.Hold{firewall.Plain, firewall.Orphan, firewall.Owned}).Draw(t, "best")
		plan := firewall.MakePlan(firewall.State{Table: &bent, Best: best}, want)
		for i, step := range plan.Steps {
			if err := m.step(step); err != nil {
				t.Fatalf("step %d of:\n%s\n%v", i+1, plan, err)
			}
		}
		m.table.Comment = want.Comment
		m.expect(t, want)
	})
}

// bend does something to a table that others than cfwall can do.
func bend(t *rapid.T, r *firewall.Ruleset) {
	*r = *clone(r)
	m := model{table: r, fresh: map[string]bool{}}
	chain := rapid.SampledFrom(append(r.Chains, firewall.Chain{Name: "x"})).Draw(t, "chain")
	set := rapid.SampledFrom(append(r.Sets, firewall.Set{Name: "x", Type: firewall.TypeIPv4})).Draw(t, "set")
	edits := map[string]func(){
		"dormant":        func() { r.Flags = 1 },
		"flush a chain":  func() { m.rules(chain.Name, nil) },
		"delete a chain": func() { m.rules(chain.Name, nil); m.attempt(firewall.DeleteChain{Name: chain.Name}) },
		"add a chain":    func() { m.attempt(firewall.AddChain{Chain: firewall.Chain{Name: "x"}}) },
		"add a base chain": func() {
			m.attempt(firewall.AddChain{Chain: firewall.Chain{Name: "y", Hook: firewall.Hook{Point: "prerouting", Priority: 7, Foreign: "policy drop"}}})
		},
		"hook a chain": func() {
			m.rules(chain.Name, nil)
			m.attempt(firewall.DeleteChain{Name: chain.Name}, firewall.AddChain{Chain: firewall.Chain{Name: chain.Name, Hook: firewall.Hook{Point: "prerouting", Priority: 5}}})
		},
		"unhook guard": func() {
			m.attempt(firewall.DeleteChain{Name: "guard"}, firewall.AddChain{Chain: firewall.Chain{Name: "guard"}})
		},
		"lead somewhere": func() {
			to := rapid.SampledFrom([]string{"guard", "cloudflare", "closed", "x"}).Draw(t, "to")
			m.rules(chain.Name, append(slices.Clone(chain.Rules), foreign(firewall.Verdict{Kind: firewall.Goto, Goto: to})))
		},
		"look into a set": func() {
			m.rules(chain.Name, append(slices.Clone(chain.Rules), foreign(firewall.InSet{Name: set.Name})))
		},
		"count":         func() { m.rules(chain.Name, append(slices.Clone(chain.Rules), foreign(firewall.Count{Name: "x"}))) },
		"add a counter": func() { m.attempt(firewall.AddCounter{Counter: firewall.Counter{Name: "x"}}) },
		"delete a counter": func() {
			m.attempt(firewall.DeleteCounter{Name: rapid.SampledFrom(r.Counters).Draw(t, "counter").Name})
		},
		"empty a set": func() { m.attempt(firewall.DeleteElements{Set: set, Elements: set.Elements}) },
		"add a set":   func() { m.attempt(firewall.AddSet{Set: set}) },
		"another set": func() {
			for _, c := range r.Chains {
				m.rules(c.Name, slices.DeleteFunc(slices.Clone(c.Rules), func(r firewall.Rule) bool {
					return slices.Contains(r.Code, firewall.Expr(firewall.InSet{Name: set.Name}))
				}))
			}
			other := set
			other.Foreign = "flags"
			m.attempt(firewall.DeleteSet{Name: set.Name}, firewall.AddSet{Set: other})
		},
	}
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(edits))).Draw(t, "edit")
	edits[name]()
}

func foreign(e firewall.Expr) firewall.Rule {
	return firewall.Rule{Code: []firewall.Expr{e}, Comment: "foreign"}
}

// attempt does what the kernel lets anybody do.
func (m *model) attempt(ops ...firewall.Op) {
	before := clone(m.table)
	for _, op := range ops {
		if m.op(op) != nil {
			*m.table = *before
			return
		}
	}
	clear(m.fresh)
}

func (m *model) rules(chain string, rules []firewall.Rule) {
	m.attempt(firewall.SetRules{Chain: firewall.Chain{Name: chain, Rules: rules}})
}
