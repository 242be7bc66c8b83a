package neighbours

import "golang.org/x/sys/unix"

// A Register is one of the kernel's, by its number there (enum nft_registers).
type Register uint32

// registerSpace is that of sixteen registers of four bytes; the older numbers
// name four of sixteen bytes in the same space.
const registerSpace = unix.NFT_REG32_COUNT * unix.NFT_REG32_SIZE

func (r Register) offset() (int, bool) {
	switch {
	case r >= unix.NFT_REG_1 && r <= unix.NFT_REG_4:
		return int(r-unix.NFT_REG_1) * unix.NFT_REG_SIZE, true
	case r >= unix.NFT_REG32_00 && r <= unix.NFT_REG32_15:
		return int(r-unix.NFT_REG32_00) * unix.NFT_REG32_SIZE, true
	default:
		return 0, false
	}
}

// The verdicts of netfilter that nf_tables does not name (linux/netfilter.h).
const (
	verdictDrop   = 0
	verdictAccept = 1
	verdictStolen = 2
)

// A Verdict is what a rule decides: NF_* or NFT_*.
type Verdict struct {
	Code    int32
	Chain   string // of a jump or goto
	Rejects bool   // the drop is told to the sender
}

func (v Verdict) effect() Effect {
	switch {
	case v.Rejects:
		return Rejects
	case v.Code == verdictStolen:
		return Diverts
	default:
		return Drops
	}
}

// Stolen is the verdict of expressions that send a packet elsewhere.
var Stolen = Verdict{Code: verdictStolen}

// A machine runs the instructions of one rule.
type machine struct {
	walk  *walk
	place place
	state *state
	// skipped is the packet's state where it may have left the rule.
	skipped *state
	verdict Verdict

	value, known [registerSpace]byte
	// on says which value was not known, for a doubt; "" for one that need
	// not be told, such as a limit.
	on     string
	unsure string // the origin of the last value that was not fully known
}

// run returns No where the packet leaves the rule before its end, and sets the verdict.
func (m *machine) run(code []Instruction) Answer {
	m.verdict.Code = unix.NFT_CONTINUE
	for _, i := range code {
		switch i.run(m) {
		case No:
			return No
		case Maybe:
			m.skipped = join(m.skipped, m.state.clone())
		}
		if m.verdict.Code != unix.NFT_CONTINUE {
			break
		}
	}
	return Yes
}

// read returns a register's content; what does not lie within is not known.
func (m *machine) read(r Register, size int) bits {
	at, ok := r.offset()
	if !ok || size < 0 || at+size > registerSpace {
		return unknown(min(max(size, 0), registerSpace))
	}
	return bits{m.value[at : at+size], m.known[at : at+size]}
}

// load writes a register; like the kernel it fills the last four bytes with zeros.
func (m *machine) load(r Register, v bits, name string) Answer {
	at, ok := r.offset()
	size := len(v.value)
	if !ok || at+size > registerSpace {
		return m.doubt(name)
	}
	if !v.certain() {
		m.unsure = name
	}
	space := bits{m.value[at:], m.known[at:]}
	space.put(0, v)
	if padding := min(-size&3, registerSpace-at-size); padding > 0 {
		space.put(size, known(make([]byte, padding)...))
	}
	return Yes
}

// guess loads a value that is not known.
func (m *machine) guess(r Register, name string) Answer {
	at, _ := r.offset()
	m.load(r, unknown(min(unix.NFT_REG_SIZE, registerSpace-at)), name)
	return Yes
}

func (m *machine) doubt(on string) Answer {
	if m.on == "" {
		m.on = on
	}
	return Maybe
}

// judge passes an answer on and notes what it depends on.
func (m *machine) judge(a Answer) Answer {
	if a == Maybe {
		return m.doubt(m.unsure)
	}
	return a
}

// tracked says whether conntrack has seen the packet where the chain runs.
func (m *machine) tracked() Answer {
	base := m.place.base
	switch base.Hook {
	case Ingress:
		return No
	case Prerouting, Output:
		switch {
		case base.at() == priorityTracking, m.walk.packet.In.Name == "lo": // packets keep their entry on lo
			return Maybe
		case base.at() < priorityTracking:
			return No
		}
	}
	return m.state.flow.untracked.not()
}
