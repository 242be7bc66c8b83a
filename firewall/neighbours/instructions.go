package neighbours

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// An Instruction is an expression of nf_tables. It answers whether the packet
// stays in the rule.
type Instruction interface{ run(*machine) Answer }

type (
	// Nothing is an expression that never ends a rule and that nobody looks
	// at: counter, log, dup and the like.
	Nothing struct{}
	// Unknown is an expression that this package does not understand.
	Unknown struct{ Name string }
	// Guess loads what only the kernel knows: a random number, a hash.
	Guess struct {
		Name string
		To   Register
	}
	// Sometimes depends on how much traffic there is: limit, connlimit.
	Sometimes struct{}
	// Immediate loads a constant.
	Immediate struct {
		To   Register
		Data []byte
	}
	// Decide ends a rule.
	Decide struct{ Verdict Verdict }
	// Compare compares a register with a constant (NFT_CMP_*).
	Compare struct {
		Op   uint32
		From Register
		Data []byte
	}
	// Range asks whether a register lies between two constants.
	Range struct {
		Not         bool
		From        Register
		First, Last []byte
	}
	// Bitwise masks and flips bits.
	Bitwise struct {
		From, To  Register
		Size      int
		Mask, Xor []byte
	}
	// Shift moves the bits of words of four bytes.
	Shift struct {
		From, To Register
		Size     int
		Right    bool
		By       uint32
	}
	// Byteorder swaps the bytes of words on little-endian machines.
	Byteorder struct {
		From, To   Register
		Size, Word int
	}
	// Lookup looks a register up in a set or map.
	Lookup struct {
		Set  string
		From Register
		Not  bool
		Maps bool
		To   Register // where data of a map goes; NFT_REG_VERDICT for verdicts
	}
	// Update adds to a set or deletes from it. Plain is one that only adds.
	Update struct {
		Set   string
		Plain bool
	}
	// Quota is a quota with the state that it is in now.
	Quota struct{ Over, Exceeded bool }
	// NAT translates the destination or the source, of packets of one family
	// (NFPROTO_*) unless that is 0.
	NAT struct {
		Destination bool
		Family      byte
	}
	// Queue hands the packet to a program, which decides.
	Queue struct{}
	// Notrack has conntrack look away.
	Notrack struct{}
)

func (Nothing) run(*machine) Answer { return Yes }

// run knows nothing: such an expression may end the rule, or the packet.
func (u Unknown) run(m *machine) Answer {
	m.mayEnd(u.Name)
	return Maybe
}

func (g Guess) run(m *machine) Answer { return m.guess(g.To, g.Name) }

func (Sometimes) run(*machine) Answer { return Maybe }

func (i Immediate) run(m *machine) Answer { return m.load(i.To, known(i.Data...), "a constant") }

func (d Decide) run(m *machine) Answer {
	m.verdict = d.Verdict
	return Yes
}

func (c Compare) run(m *machine) Answer {
	v := m.read(c.From, len(c.Data))
	var a Answer
	switch c.Op {
	case unix.NFT_CMP_EQ:
		a = v.equals(c.Data)
	case unix.NFT_CMP_NEQ:
		a = v.equals(c.Data).not()
	case unix.NFT_CMP_LT:
		a = v.atLeast(c.Data).not()
	case unix.NFT_CMP_LTE:
		a = v.atMost(c.Data)
	case unix.NFT_CMP_GT:
		a = v.atMost(c.Data).not()
	case unix.NFT_CMP_GTE:
		a = v.atLeast(c.Data)
	default:
		a = Maybe
	}
	return m.judge(a)
}

func (r Range) run(m *machine) Answer {
	a := both(m.read(r.From, len(r.First)).atLeast(r.First), m.read(r.From, len(r.Last)).atMost(r.Last))
	if r.Not {
		a = a.not()
	}
	return m.judge(a)
}

func (b Bitwise) run(m *machine) Answer {
	v := m.read(b.From, b.Size)
	if len(b.Mask) < b.Size || len(b.Xor) < b.Size {
		return m.guess(b.To, "bitwise")
	}
	return m.load(b.To, v.and(b.Mask).xor(b.Xor), m.unsure)
}

// run shifts one word; longer values, which nobody shifts, are not known then.
func (s Shift) run(m *machine) Answer {
	v := m.read(s.From, s.Size)
	if s.Size != 4 || s.By > 31 || !v.certain() {
		return m.guess(s.To, "a shifted value")
	}
	n := binary.NativeEndian.Uint32(v.value)
	if s.Right {
		return m.load(s.To, native32(n>>s.By), "")
	}
	return m.load(s.To, native32(n<<s.By), "")
}

// run swaps whole words and leaves the rest: nft has single bytes swapped, which does nothing.
func (b Byteorder) run(m *machine) Answer {
	if b.Word < 2 || b.Size < 0 || b.From != b.To {
		return m.guess(b.To, "byteorder")
	}
	v := m.read(b.From, b.Size-b.Size%b.Word)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return Yes
	}
	for _, part := range [][]byte{v.value, v.known} {
		for word := range slices.Chunk(part, b.Word) {
			slices.Reverse(word)
		}
	}
	return Yes
}

func (u Update) run(m *machine) Answer {
	m.walk.written[setID{m.place.base.Table, u.Set}] = true
	if !u.Plain {
		m.unsure = "what runs for each element of set " + u.Set
		return m.judge(Maybe)
	}
	return Yes // unless the set is full
}

func (q Quota) run(*machine) Answer { return answer(q.Over == q.Exceeded) }

// run ends the chain with accept, and the packet goes on as another.
func (n NAT) run(m *machine) Answer {
	if n.Family != 0 && n.Family != unix.NFPROTO_INET && n.Family != m.walk.packet.family() {
		return Yes
	}
	m.verdict.Code = verdictAccept
	if !n.Destination {
		m.state.forgetSource()
		return Yes
	}
	m.state.forgetDestination()
	m.state.diverted, m.state.by = Yes, m.place
	return Yes
}

func (Queue) run(m *machine) Answer {
	m.mayEnd("queue")
	m.verdict.Code = verdictAccept
	return Yes
}

// run has no effect on a packet that conntrack has seen (nft_notrack_eval).
func (Notrack) run(m *machine) Answer {
	m.state.flow.untracked = max(m.state.flow.untracked, m.tracked().not())
	return Yes
}

// mayEnd notes that the packet may end here or be accepted.
func (m *machine) mayEnd(on string) {
	m.doubt(on)
	if m.state.doubt == nil {
		m.state.doubt = &doubt{m.place, on}
	}
	m.walk.end(drop{m.place, Drops, m.state.doubt})
	m.walk.accepted = join(m.walk.accepted, m.state.clone())
}

func (l Lookup) run(m *machine) Answer {
	set := m.walk.source.Set(m.place.base.Table, l.Set)
	key := m.read(l.From, set.KeySize)
	if !key.certain() || m.walk.written[setID{m.place.base.Table, l.Set}] {
		return l.unsure(m)
	}
	e, found := set.Find(key.value)
	switch {
	case found == Maybe:
		m.unsure = "what runs for each element of set " + l.Set
		return l.unsure(m)
	case !l.Maps:
		return answer((found == Yes) != l.Not)
	case found == No:
		return No
	case l.To == unix.NFT_REG_VERDICT:
		m.verdict = e.Verdict
		return Yes
	default:
		return m.load(l.To, known(e.Data...), "")
	}
}

// unsure is a lookup of a key that is not known, which in a map of verdicts
// may lead anywhere.
func (l Lookup) unsure(m *machine) Answer {
	switch {
	case l.Maps && l.To == unix.NFT_REG_VERDICT:
		m.mayEnd(m.unsure)
		m.state.mark = unknown(4)
		m.state.flow.mark = unknown(4)
	case l.Maps:
		m.guess(l.To, m.unsure)
	}
	return m.doubt(m.unsure)
}
