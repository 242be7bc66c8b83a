package neighbours

import (
	"fmt"
	"slices"
	"strings"
)

// An Effect is what becomes of traffic that a rule stops.
type Effect string

// The effects.
const (
	Drops   Effect = "drops"
	Rejects Effect = "rejects"
	// Diverts sends it to another address than it was meant for.
	Diverts Effect = "diverts"
)

// A Finding says what certainly stops traffic.
type Finding struct {
	Effect Effect
	// Answers is true where what goes out passes and what comes back is stopped.
	Answers bool
	Table   Table
	Chain   string
	Hook    Hook
	// Policy is true where no rule but the chain's policy does it.
	Policy  bool
	Handle  uint64 // of the rule
	Comment string // of the rule
	// Traffic names what is stopped.
	Traffic []string
	// Cure says what to do about it.
	Cure string
}

// Where prints `table ip filter, chain OUTPUT, rule handle 12 ("deny out")`.
func (f Finding) Where() string {
	where := fmt.Sprintf("table %s, chain %s", f.Table, f.Chain)
	switch {
	case f.Policy:
		return where + " (policy drop)"
	case f.Comment != "":
		return fmt.Sprintf("%s, rule handle %d (%q)", where, f.Handle, f.Comment)
	default:
		return fmt.Sprintf("%s, rule handle %d", where, f.Handle)
	}
}

// String prints the finding as one line without the cure.
func (f Finding) String() string {
	what := strings.Join(f.Traffic, ", ")
	if f.Answers {
		what = "the answers to " + what
	}
	return fmt.Sprintf("%s %s %s", f.Where(), f.Effect, what)
}

// Judge follows traffic through the ruleset. It returns what certainly stops
// some of it, each rule once, and a remark for each rule that may, but depends
// on what is not understood or not known.
func (r Ruleset) Judge(traffic []Traffic) (findings []Finding, remarks []string) {
	rules := make(map[chainID][]Rule)
	for _, t := range traffic {
		f, doubts := r.follow(t, rules)
		if f != nil {
			findings = merge(findings, *f)
		}
		for _, text := range doubts {
			if !slices.Contains(remarks, text) {
				remarks = append(remarks, text)
			}
		}
	}
	return findings, remarks
}

func merge(findings []Finding, f Finding) []Finding {
	for i, g := range findings {
		if g.Table == f.Table && g.Chain == f.Chain && g.Handle == f.Handle && g.Answers == f.Answers && g.Effect == f.Effect {
			findings[i].Traffic = append(g.Traffic, f.Traffic...)
			if !strings.Contains(g.Cure, f.Cure) {
				findings[i].Cure = g.Cure + "; " + f.Cure
			}
			return findings
		}
	}
	return append(findings, f)
}

// follow takes a flow through the chains from several source ports. It is
// stopped if none of them passes.
func (r Ruleset) follow(t Traffic, rules map[chainID][]Rule) (f *Finding, remarks []string) {
	for _, flow := range t.samples() {
		if f, remarks = r.followOne(flow, rules); f == nil {
			return nil, remarks
		}
	}
	return f, nil
}

// followOne takes the packets of a flow through the chains, until one is stopped.
func (r Ruleset) followOne(t Traffic, rules map[chainID][]Rule) (f *Finding, remarks []string) {
	kept := newFlow()
	var doubts []drop
	for _, p := range t.Packets {
		w := walk{source: r.Source, packet: p, before: kept, rules: rules, left: budget, written: make(map[setID]bool)}
		s := w.through(r, newState(p, kept))
		switch {
		case s == nil:
			return w.finding(t, w.drops[len(w.drops)-1]), nil
		case s.diverted == Yes && !t.MayBeDiverted:
			return w.finding(t, drop{place: s.by, effect: Diverts}), nil
		}
		doubts = append(doubts, w.drops...)
		kept = w.keep(s)
	}
	for _, d := range doubts {
		if d.doubt != nil {
			remarks = append(remarks, d.doubt.remark(t))
		}
	}
	return nil, remarks
}

// through takes a packet from hook to hook; nil says that it is dropped.
func (w *walk) through(r Ruleset, s *state) *state {
	for _, at := range w.packet.stations() {
		if at.hook == Egress && s.rerouted {
			return s // nobody knows by which device it leaves
		}
		for _, c := range r.chainsAt(at.hook, w.packet.family(), at.device) {
			if s = w.pass(c, s); s == nil {
				return nil
			}
		}
	}
	return s
}

// keep is what the flow's next packets find: whether conntrack has it was
// decided by the first.
func (w *walk) keep(s *state) flow {
	f := s.flow
	if !w.packet.Opening {
		f.untracked = w.before.untracked
	}
	return f
}

func (w *walk) finding(t Traffic, d drop) *Finding {
	f := Finding{
		Effect: d.effect, Answers: w.packet.Reply, Traffic: []string{t.Name},
		Table: d.place.base.Table, Chain: d.place.chain, Hook: d.place.base.Hook, Policy: d.place.rule == nil,
	}
	if d.place.rule != nil {
		f.Handle, f.Comment = d.place.rule.Handle, d.place.rule.Comment
	}
	f.Cure = w.cure(f)
	return &f
}

func (d doubt) remark(t Traffic) string {
	f := Finding{Table: d.place.base.Table, Chain: d.place.chain, Policy: d.place.rule == nil}
	if r := d.place.rule; r != nil {
		f.Handle, f.Comment = r.Handle, r.Comment
	}
	return fmt.Sprintf("%s: whether it stops %s depends on %s", f.Where(), t.Name, d.on)
}
