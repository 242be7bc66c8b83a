package neighbours

import "golang.org/x/sys/unix"

// A place is a rule, or the policy of a chain where rule is nil.
type place struct {
	base  BaseChain
	chain string
	rule  *Rule
}

// A drop is where packets end, and the doubt on which that depends.
type drop struct {
	place  place
	effect Effect
	doubt  *doubt
}

const (
	// depth is more than the kernel lets chains jump (NFT_JUMP_STACK_SIZE).
	depth = 20
	// budget bounds the rules that one packet meets: twenty times as many as
	// the largest rulesets hold that are in use.
	budget = 1_000_000
)

// A walk takes one packet through the chains.
type walk struct {
	source Source
	packet Packet
	// before is what the flow's earlier packets left behind.
	before flow
	rules  map[chainID][]Rule
	left   int // of the budget

	base     BaseChain
	depth    int
	accepted *state // what leaves the base chain with accept
	drops    []drop
	written  map[setID]bool // sets that rules on the way may have changed
}

type chainID struct {
	table Table
	name  string
}

type setID chainID

// pass takes a packet through a base chain; nil says that it ends there.
func (w *walk) pass(c BaseChain, s *state) *state {
	if c.Kind != "nat" {
		return w.enter(c, s)
	}
	if !w.packet.Opening || s.flow.untracked == Yes { // only new flows that conntrack sees
		return s
	}
	untouched, sees := s.clone(), s.flow.untracked.not()
	passed := w.enter(c, s)
	if sees == Yes && w.tracks(c.Table.Family) {
		return passed
	}
	if passed == nil {
		d := w.drops[len(w.drops)-1]
		untouched.doubt = &doubt{d.place, "whether this host tracks connections"}
		w.end(drop{d.place, d.effect, untouched.doubt})
	}
	return join(untouched, passed)
}

func (w *walk) enter(c BaseChain, s *state) *state {
	w.base, w.accepted = c, nil
	mark := s.mark.clone()
	through := w.chain(c.Name, s)
	if through != nil && c.Drops {
		w.end(drop{place{base: c, chain: c.Name}, Drops, through.doubt})
		through = nil
	}
	passed := join(w.accepted, through)
	if passed != nil && c.Kind == "route" && passed.mark.equals(mark.value) != Yes {
		passed.rerouted = true
	}
	return passed
}

// end keeps drops, but not too many.
func (w *walk) end(d drop) {
	if n := len(w.drops); n >= 64 {
		w.drops = w.drops[:n-1] // the last one is the one that counts
	}
	w.drops = append(w.drops, d)
}

// chain returns what comes back from a chain: from its end, or by return.
func (w *walk) chain(name string, s *state) (back *state) {
	if w.depth >= depth {
		return s // the kernel lets nobody load such a thing
	}
	w.depth++
	defer func() { w.depth-- }()
	rules := w.rulesOf(name)
	for i := range rules {
		if s == nil {
			return back
		}
		if w.left--; w.left < 0 {
			s.doubt = &doubt{place{w.base, name, &rules[i]}, "the ruleset's size"}
			w.accepted = join(w.accepted, s)
			return back
		}
		var leaves *state
		s, leaves = w.rule(place{w.base, name, &rules[i]}, s)
		back = join(back, leaves)
	}
	return join(back, s)
}

func (w *walk) rulesOf(chain string) []Rule {
	id := chainID{w.base.Table, chain}
	rules, read := w.rules[id]
	if !read {
		rules = w.source.Rules(id.table, id.name)
		w.rules[id] = rules
	}
	return rules
}

// rule returns what goes on to the next rule and what leaves the chain.
func (w *walk) rule(at place, s *state) (next, leaves *state) {
	m := machine{walk: w, place: at, state: s}
	if m.run(at.rule.Code()) == No || m.verdict.Code == unix.NFT_CONTINUE {
		return join(m.skipped, m.state), nil
	}
	if m.skipped != nil && m.on != "" && s.doubt == nil {
		m.state.doubt = &doubt{at, m.on}
		m.skipped.doubt = m.state.doubt
	}
	next, leaves = w.verdict(at, m.verdict, m.state)
	return join(m.skipped, next), leaves
}

func (w *walk) verdict(at place, v Verdict, s *state) (next, leaves *state) {
	switch v.Code {
	case unix.NFT_RETURN:
		return nil, s
	case unix.NFT_JUMP:
		return w.chain(v.Chain, s), nil
	case unix.NFT_GOTO:
		return nil, w.chain(v.Chain, s)
	case unix.NFT_CONTINUE, unix.NFT_BREAK:
		return s, nil
	}
	switch v.Code & 0xff { // the rest is an error number (NF_VERDICT_MASK)
	case verdictDrop, verdictStolen:
		w.end(drop{at, v.effect(), s.doubt})
	default: // accept; a queue is doubted before
		w.accepted = join(w.accepted, s)
	}
	return nil, nil
}
