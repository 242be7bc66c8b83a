package firewall

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// A Plan leads from what the kernel holds to what we want, in steps that each
// leave the ports guarded and drop nothing that both the old and the new
// policy admit. The shapes were measured under flood; docs/design.md has the
// figures.
//
//   - New objects first, filled: an interval set that is used in the very
//     transaction which makes it is empty for the first packets.
//   - Sets change by element, deletions before additions: first they are
//     widened, then the rules change, then the sets are narrowed and what is
//     left over goes.
//   - Rules change by flushing a chain and filling it again in one transaction.
//   - The table is never deleted to be made anew.
type Plan struct {
	Family Family
	// Generation is the one that the plan was made from; the kernel refuses
	// a step when another program has changed any table since.
	Generation uint32
	Steps      []Step
}

// A Step is one transaction: the kernel does all of it or nothing.
type Step []Op

// Empty reports whether the kernel holds what we want: nothing is written then.
func (p Plan) Empty() bool { return len(p.Steps) == 0 }

// MakePlan compares what the kernel holds with what we want.
func MakePlan(have State, want Ruleset) Plan {
	plan := Plan{Family: want.Family, Generation: have.Generation}
	p := planner{want: want}
	switch {
	case have.Table == nil:
		p.base = append(p.base, AddTable{Comment: want.Comment, Hold: have.Best})
	case have.Best == Owned && have.Table.Hold == Plain:
		plan.Steps = takeOver(*have.Table, want)
		return plan
	default:
		p.have = *have.Table
		p.hold(have.Best)
	}
	p.counters()
	p.leftovers()
	p.sets()
	p.rules()
	plan.Steps = p.steps()
	return plan
}

type planner struct {
	have, want Ruleset

	wake   []Op // the table, to adopt it or if somebody has made it dormant
	base   []Op // the table and its counters
	unbind []Op // fail closed: rules without the sets that must be made anew
	make   []Op // sets that are missing, with their elements
	widen  []Op // elements of sets in use
	chains []Op // chains and rules
	narrow []Op // elements to go
	clear  []Op // objects to go
}

// steps joins the phases. Widening and narrowing are transactions of their own,
// also where no rule changes: the sets of one transaction are published one
// after the other, so that a network which moves from one set to another would
// be in neither for a moment.
func (p *planner) steps() []Step {
	phases := [][]Op{slices.Concat(p.base, p.make, p.widen), p.chains, slices.Concat(p.narrow, p.clear)}
	if len(p.unbind) > 0 {
		phases = [][]Op{slices.Concat(p.base, p.unbind), slices.Concat(p.make, p.widen), p.chains, p.narrow}
	}
	// A table that sleeps guards nothing, so it wakes first: the kernel would
	// not take a chain in the same transaction.
	var steps []Step
	for _, ops := range slices.Insert(phases, 0, p.wake) {
		if len(ops) > 0 {
			steps = append(steps, Step(ops))
		}
	}
	return steps
}

func (p *planner) counters() {
	for _, c := range p.want.Counters {
		if _, ok := find(p.have.Counters, func(h Counter) bool { return h.Name == c.Name }); !ok {
			p.base = append(p.base, AddCounter{c})
		}
	}
}

func (p *planner) sets() {
	for _, want := range p.want.Sets {
		have, ok := p.have.Set(want.Name)
		switch {
		case !ok:
			p.make = append(p.make, addSet(want)...)
		case have.Type != want.Type || have.Timeouts != want.Timeouts || have.Foreign != "":
			p.unbind = append(p.unbind, DeleteSet{want.Name})
			p.make = append(p.make, addSet(want)...)
		default:
			p.elements(have, want)
		}
	}
	if len(p.unbind) > 0 {
		p.unbind = slices.Concat(p.relay(usesSet), p.unbind)
	}
}

// addSet makes a set with its elements.
func addSet(s Set) []Op {
	ops := []Op{AddSet{s}}
	if len(s.Elements) > 0 {
		ops = append(ops, AddElements{s, s.Elements})
	}
	return ops
}

// relay makes the chains anew in a table that somebody has bent, where chains
// and sets may refer to each other in any way: all rules go before anything
// else does. Rules that are left out may look into sets that must go as well:
// what those admitted is dropped until they are back, which is the lesser evil.
func (p *planner) relay(leaveOut func(Rule) bool) []Op {
	var ops []Op
	for _, c := range p.have.Chains {
		ops = append(ops, SetRules{Chain{Name: c.Name}})
	}
	ops = append(ops, p.clear...)
	p.clear = nil
	ops = append(ops, p.hooks()...)
	for _, c := range p.want.Chains {
		c.Rules = slices.DeleteFunc(slices.Clone(c.Rules), leaveOut)
		ops = append(ops, SetRules{c})
	}
	return ops
}

func usesSet(r Rule) bool {
	return slices.ContainsFunc(r.Code, func(e Expr) bool {
		_, looks := e.(InSet)
		_, fills := e.(Remember)
		return looks || fills
	})
}

// elements sorts the changes of a set into those that widen it and those that
// narrow it. Networks either hold one another or have nothing in common, so a
// new one that overlaps old ones takes their place at once, or narrows them.
func (p *planner) elements(have, want Set) {
	gone, added := diffElements(have.Elements, want.Elements)
	var widen, narrow struct{ gone, added []Element }
	replaced := make(map[Element]bool)
	for _, a := range added {
		within := overlapping(gone, a)
		if slices.ContainsFunc(within, func(g Element) bool { return !contains(a, g) }) {
			narrow.added = append(narrow.added, a)
			continue
		}
		widen.added = append(widen.added, a)
		widen.gone = append(widen.gone, within...)
		for _, g := range within {
			replaced[g] = true
		}
	}
	narrow.gone = slices.DeleteFunc(gone, func(g Element) bool { return replaced[g] })
	p.widen = append(p.widen, changeElements(want, widen.gone, widen.added)...)
	p.narrow = append(p.narrow, changeElements(want, narrow.gone, narrow.added)...)
}

func changeElements(s Set, gone, added []Element) []Op {
	var ops []Op
	if len(gone) > 0 {
		ops = append(ops, DeleteElements{s, gone})
	}
	if len(added) > 0 {
		ops = append(ops, AddElements{s, added})
	}
	return ops
}

// expiryTolerance is how far the time that the kernel has left for an element
// may be off: it counts down from when the element was written.
const expiryTolerance = 5 * time.Second

func sameExpiry(a, b Element) bool {
	if a.Expires.IsZero() || b.Expires.IsZero() {
		return a.Expires.IsZero() == b.Expires.IsZero()
	}
	return a.Expires.Sub(b.Expires).Abs() <= expiryTolerance
}

// permanent is the element without its end.
func (e Element) permanent() Element {
	e.Expires = time.Time{}
	return e
}

// diffElements returns what is gone, sorted, and what is added.
func diffElements(have, want []Element) (gone, added []Element) {
	held := make(map[Element]Element, len(have))
	for _, e := range have {
		held[e.permanent()] = e
	}
	for _, e := range want {
		if h, ok := held[e.permanent()]; ok && sameExpiry(h, e) {
			delete(held, e.permanent())
			continue
		}
		added = append(added, e)
	}
	return slices.SortedFunc(maps.Values(held), compareElements), added
}

func compareElements(a, b Element) int {
	return cmp.Or(a.Range.From().Compare(b.Range.From()), strings.Compare(a.Name, b.Name))
}

// overlapping returns those of the sorted elements that have an address in
// common with another.
func overlapping(sorted []Element, with Element) []Element {
	first, _ := slices.BinarySearchFunc(sorted, with, func(e, with Element) int {
		return e.Range.To().Compare(with.Range.From())
	})
	last := first
	for last < len(sorted) && sorted[last].Range.Overlaps(with.Range) {
		last++
	}
	return sorted[first:last]
}

func contains(outer, inner Element) bool {
	return outer.Range.From().Compare(inner.Range.From()) <= 0 && inner.Range.To().Compare(outer.Range.To()) <= 0
}

func (p *planner) rules() {
	switch {
	case len(p.unbind) > 0:
		for _, c := range p.want.Chains {
			p.chains = append(p.chains, SetRules{c})
		}
	case slices.ContainsFunc(p.want.Chains, p.isMoved):
		p.chains = p.relay(func(Rule) bool { return false })
	default:
		p.chains = p.hooks() // rules lead to chains that must exist
		for _, want := range p.want.Chains {
			if have, _ := p.have.Chain(want.Name); !slices.EqualFunc(have.Rules, want.Rules, Rule.Equal) {
				p.chains = append(p.chains, SetRules{want})
			}
		}
	}
}

// hooks makes the chains that are missing, or not where they belong.
func (p *planner) hooks() []Op {
	var ops []Op
	for _, want := range p.want.Chains {
		_, ok := p.have.Chain(want.Name)
		if p.isMoved(want) {
			ops = append(ops, DeleteChain{want.Name})
		}
		if !ok || p.isMoved(want) {
			ops = append(ops, AddChain{want})
		}
	}
	return ops
}

// isMoved reports whether a chain exists, but at another hook.
func (p *planner) isMoved(want Chain) bool {
	have, ok := p.have.Chain(want.Name)
	return ok && have.Hook != want.Hook
}

// leftovers removes what is in the table but not in the policy: of an older
// version, or of someone who put it there. Rules go first and chains after
// sets: chains may lead to each other, and maps may hold verdicts.
func (p *planner) leftovers() {
	var chains []Op
	for _, c := range p.have.Chains {
		if _, ok := p.want.Chain(c.Name); !ok {
			p.clear = append(p.clear, SetRules{Chain{Name: c.Name}})
			chains = append(chains, DeleteChain{c.Name})
		}
	}
	for _, s := range p.have.Sets {
		if _, ok := p.want.Set(s.Name); !ok {
			p.clear = append(p.clear, DeleteSet{s.Name})
		}
	}
	p.clear = append(p.clear, chains...)
	for _, c := range p.have.Counters {
		if _, ok := find(p.want.Counters, func(w Counter) bool { return w.Name == c.Name }); !ok {
			p.clear = append(p.clear, DeleteCounter{c.Name})
		}
	}
	for _, o := range p.have.Objects {
		p.clear = append(p.clear, DeleteObject{o})
	}
}

// RemovePlan leads to no table at all: `cfwall off`, the only way to open.
func RemovePlan(have State, family Family) Plan {
	p := Plan{Family: family, Generation: have.Generation}
	if have.Table != nil {
		p.Steps = []Step{{DeleteTable{}}}
	}
	return p
}
