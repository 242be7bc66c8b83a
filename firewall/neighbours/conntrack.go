package neighbours

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

type (
	// CT loads what conntrack knows (NFT_CT_*). Direction is nil where the
	// rule asks for none.
	CT struct {
		Key       uint32
		Direction *byte
		To        Register
	}
	// SetCT changes it.
	SetCT struct {
		Key  uint32
		From Register
	}
)

// The bits of a state (NF_CT_STATE_*).
const (
	stateInvalid     = 1
	stateEstablished = 2
	stateRelated     = 4
	stateNew         = 8
	stateUntracked   = 64
)

func (l CT) run(m *machine) Answer {
	if l.Key == unix.NFT_CT_STATE {
		return m.load(l.To, m.ctState(), "the state of the flow")
	}
	switch m.tracked() {
	case No:
		return No
	case Maybe:
		m.guess(l.To, "conntrack")
		return m.doubt("conntrack")
	}
	v, name := m.ctValue(l)
	return m.load(l.To, v, name)
}

func (m *machine) ctState() bits {
	p := m.walk.packet
	switch tracked := m.tracked(); {
	case m.state.flow.untracked == Yes:
		return native32(stateUntracked)
	case tracked == No && m.state.flow.untracked == No:
		return native32(stateInvalid)
	case tracked != Yes:
		return unknown(4)
	case p.Opening:
		return native32(stateNew)
	case m.walk.before.untracked == No:
		return native32(stateEstablished)
	case m.walk.before.untracked == Yes: // conntrack takes it for the first packet
		return native32(0).without(stateNew | stateInvalid)
	default:
		return unknown(4)
	}
}

// without makes bits unknown.
func (b bits) without(n uint32) bits {
	mask := binary.NativeEndian.AppendUint32(nil, n)
	for i := range b.known {
		b.known[i] &^= mask[i]
		b.value[i] &^= mask[i]
	}
	return b
}

// The bits of a status (enum ip_conntrack_status).
const (
	statusExpected = 1 << 0
	statusNAT      = 1<<4 | 1<<5
)

func (m *machine) ctValue(l CT) (bits, string) {
	p := m.walk.packet
	original := l.Direction != nil && *l.Direction == 0 && !m.state.flow.translated && !p.Reply
	source, destination := m.state.addresses()
	switch {
	case l.Key == unix.NFT_CT_DIRECTION:
		if p.Reply {
			return known(1), ""
		}
		return known(0), ""
	case l.Key == unix.NFT_CT_MARK:
		return m.state.flow.mark, "the flow's mark"
	case l.Key == unix.NFT_CT_STATUS:
		if m.state.flow.translated {
			return unknown(4), "address translation"
		}
		return native32(0).without(^uint32(statusExpected | statusNAT)), "the status of the flow"
	case l.Key == unix.NFT_CT_L3PROTOCOL:
		return known(p.family()), ""
	case l.Key == unix.NFT_CT_PROTOCOL:
		return known(p.number()), ""
	case original && (l.Key == unix.NFT_CT_SRC || l.Key == unix.NFT_CT_SRC_IP || l.Key == unix.NFT_CT_SRC_IP6):
		return source, "the flow's source"
	case original && (l.Key == unix.NFT_CT_DST || l.Key == unix.NFT_CT_DST_IP || l.Key == unix.NFT_CT_DST_IP6):
		return destination, "the flow's destination"
	case original && l.Key == unix.NFT_CT_PROTO_DST:
		return m.state.transport.part(2, 2), "the flow's port"
	default:
		return unknown(unix.NFT_REG_SIZE), "what conntrack knows of the flow"
	}
}

func (s SetCT) run(m *machine) Answer {
	if s.Key == unix.NFT_CT_MARK {
		m.markFlow(m.read(s.From, 4))
	}
	return Yes
}

// markFlow marks the flow if conntrack has it.
func (m *machine) markFlow(mark bits) {
	switch m.tracked() {
	case Yes:
		m.state.flow.mark = mark.clone()
	case Maybe:
		m.state.flow.mark = unknown(4)
	}
}

// tracks says whether some rule that was met has the kernel track connections
// of a family: nat chains alone do not, and are then passed by.
func (w *walk) tracks(family byte) bool {
	for id, rules := range w.rules {
		if id.table.Family == family || id.table.Family == unix.NFPROTO_INET {
			for _, r := range rules {
				if slices.ContainsFunc(r.Code(), needsTracking) {
					return true
				}
			}
		}
	}
	return false
}

func needsTracking(i Instruction) bool {
	switch i := i.(type) {
	case CT, SetCT, NAT:
		return true
	case Match:
		return i.Name == "conntrack" || i.Name == "state" || i.Name == "connmark"
	case Target:
		return i.Name == "MASQUERADE" || i.Name == "DNAT" || i.Name == "SNAT" || i.Name == "REDIRECT" || i.Name == "CONNMARK"
	default:
		return false
	}
}
