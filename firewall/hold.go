package firewall

import (
	"slices"
	"strings"
)

// Hold says how firmly a table is held against other programs.
type Hold string

// The holds, from the loosest. Linux has owners of tables since 5.12, but only
// since 6.9 tables that outlive them (NFT_TABLE_F_OWNER, NFT_TABLE_F_PERSIST): a
// table that goes with its process would open the ports when that crashes.
const (
	// Plain: any program with CAP_NET_ADMIN may change the table.
	Plain Hold = "plain"
	// Orphan: its owner has ended. It waits for the next cfwall to adopt it, and
	// until then any program may change it.
	Orphan Hold = "orphan"
	// Owned: this process alone may change it. Others are refused, and a flush of
	// all tables passes it by.
	Owned Hold = "owned"
	// Foreign: another process owns it.
	Foreign Hold = "foreign"
)

// hold takes the table that is there more firmly, where that can be.
func (p *planner) hold(best Hold) {
	switch {
	case best == Owned && p.have.Hold == Orphan:
		p.wake = append(p.wake, AddTable{Hold: Owned}) // it wakes a dormant one, too
	case p.have.Flags != p.want.Flags:
		p.wake = append(p.wake, AddTable{Hold: p.have.Hold})
	}
}

// takeOver makes a plain table one that can be owned. No flag can be added to it
// for that, so it is deleted and made anew, in one transaction. New interval sets
// are empty for the first packets, so rules compare with each network at first,
// and look into the sets afterwards.
func takeOver(have, want Ruleset) []Step {
	ops := []Op{TakeOver{Comment: want.Comment}}
	for _, c := range want.Counters {
		if h, ok := find(have.Counters, func(h Counter) bool { return h.Name == c.Name }); ok {
			c.Packets, c.Bytes = h.Packets, h.Bytes
		}
		ops = append(ops, AddCounter{c})
	}
	for _, s := range want.Sets {
		ops = append(ops, addSet(s)...)
	}
	for _, c := range want.Chains {
		ops = append(ops, AddChain{c})
	}
	var looking []Op
	for _, c := range want.Chains {
		spelled := c
		if spelled.Rules = want.spellOut(c.Rules); !slices.EqualFunc(spelled.Rules, c.Rules, Rule.Equal) {
			looking = append(looking, SetRules{c})
		}
		ops = append(ops, SetRules{spelled})
	}
	if len(looking) == 0 {
		return []Step{ops}
	}
	return []Step{ops, looking}
}

// longestSpelling bounds how many networks are compared one by one. With more,
// what a set admits is dropped for the microseconds until its content is there.
const longestSpelling = 2000

// spellOut has rules compare with each element of an interval set.
func (r Ruleset) spellOut(rules []Rule) []Rule {
	var spelled []Rule
	for _, rule := range rules {
		s, at := r.looksInto(rule)
		if at < 0 || len(s.Elements) > longestSpelling {
			spelled = append(spelled, rule)
			continue
		}
		for _, e := range s.Elements {
			spelled = append(spelled, rule.withRange(at, s.Name, e))
		}
	}
	return spelled
}

// looksInto finds the interval set that a rule looks into, and the instruction.
func (r Ruleset) looksInto(rule Rule) (Set, int) {
	for i, e := range rule.Code {
		if in, ok := e.(InSet); ok {
			if s, ok := r.Set(in.Name); ok && s.intervals() {
				return s, i
			}
		}
	}
	return Set{}, -1
}

func (r Rule) withRange(at int, set string, e Element) Rule {
	from, to := e.Range.From().AsSlice(), e.Range.To().AsSlice()
	return Rule{
		Text:    strings.Replace(r.Text, "@"+set, RangeString(e.Range), 1),
		Comment: r.Comment,
		Code:    slices.Concat(r.Code[:at], []Expr{AtLeast{string(from)}, AtMost{string(to)}}, r.Code[at+1:]),
	}
}
