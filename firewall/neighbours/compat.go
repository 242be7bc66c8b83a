package neighbours

import (
	"bytes"
	"encoding/binary"
)

// A Match is one of iptables' matches, which iptables-nft wraps: its name, its
// revision and its struct (linux/netfilter/xt_NAME.h).
type Match struct {
	Name     string
	Revision uint32
	Info     []byte
}

// matches are those that are understood, by name and revision.
var matches = map[string]func(*machine, info) Answer{
	"comment 0":   func(*machine, info) Answer { return Yes },
	"conntrack 1": matchConntrack1,
	"conntrack 2": matchConntrack,
	"conntrack 3": matchConntrack,
	"state 0":     matchState,
	"owner 1":     matchOwner,
	"tcp 0":       matchTCP,
	"udp 0":       matchUDP,
	"multiport 1": matchMultiport,
	"mark 1":      matchMark,
	"connmark 1":  matchConnmark,
	"addrtype 0":  matchAddressType0,
	"addrtype 1":  matchAddressType,
	"iprange 1":   matchAddressRange,
	"rpfilter 0":  matchReversePath,
}

// rates are the matches that depend on how much traffic there is.
var rates = map[string]bool{"limit": true, "connlimit": true, "hashlimit": true}

func (t Match) run(m *machine) Answer {
	if rates[t.Name] {
		return Sometimes{}.run(m)
	}
	f := matches[t.Name+" "+string('0'+rune(min(t.Revision, 9)))]
	if f == nil {
		return m.doubt("the iptables match " + t.Name)
	}
	m.unsure = "the iptables match " + t.Name
	return m.judge(f(m, t.Info))
}

// info is a struct as iptables made it. What lies beyond it reads as zero.
type info []byte

func (i info) bytes(at, size int) []byte {
	b := make([]byte, size)
	copy(b, i[min(at, len(i)):])
	return b
}

func (i info) u8(at int) byte { return i.bytes(at, 1)[0] }

func (i info) u16(at int) uint16 { return binary.NativeEndian.Uint16(i.bytes(at, 2)) }

func (i info) u32(at int) uint32 { return binary.NativeEndian.Uint32(i.bytes(at, 4)) }

// inverted turns an answer round where a flag is set.
func inverted(a Answer, isSet bool) Answer {
	if isSet {
		return a.not()
	}
	return a
}

// struct xt_conntrack_mtinfo1 to 3: eight addresses, l4proto, ports, and then
// the flags.
const (
	conntrackFlags    = 8*16 + 2*4 + 5*2
	conntrackState    = 1 << 0  // XT_CONNTRACK_STATE
	conntrackReply    = 1 << 12 // XT_CONNTRACK_DIRECTION
	conntrackAlias    = 1 << 13 // XT_CONNTRACK_STATE_ALIAS, made by -m state
	xtStateUntracked  = 1 << 8  // XT_CONNTRACK_STATE_UNTRACKED
	xtStateTranslated = 1<<6 | 1<<7
)

func matchConntrack1(m *machine, i info) Answer {
	return conntrack(m, i, uint16(i.u8(conntrackFlags+4)))
}

func matchConntrack(m *machine, i info) Answer { return conntrack(m, i, i.u16(conntrackFlags+4)) }

func conntrack(m *machine, i info, states uint16) Answer {
	wanted, inverse := i.u16(conntrackFlags), i.u16(conntrackFlags+2)
	if wanted&^(conntrackState|conntrackReply|conntrackAlias) != 0 {
		return Maybe
	}
	a := Yes
	if wanted&conntrackState != 0 {
		a = inverted(inState(m, uint32(states&^xtStateUntracked), states&xtStateUntracked != 0), inverse&conntrackState != 0)
	}
	if wanted&conntrackReply != 0 {
		a = both(a, both(m.tracked(), inverted(answer(!m.walk.packet.Reply), inverse&conntrackReply != 0)))
	}
	return a
}

func matchState(m *machine, i info) Answer {
	states := i.u32(0)
	return inState(m, states&^stateUntracked, states&stateUntracked != 0)
}

// inState asks whether a flow is in one of the states. Those bits that ask for
// address translation may hold as well.
func inState(m *machine, states uint32, untracked bool) Answer {
	const common = stateInvalid | stateEstablished | stateRelated | stateNew
	mask := states & common
	if untracked {
		mask |= stateUntracked
	}
	a := m.ctState().and(binary.NativeEndian.AppendUint32(nil, mask)).equals(make([]byte, 4)).not()
	if states&xtStateTranslated != 0 && m.state.flow.translated {
		a = either(a, Maybe)
	}
	return a
}

// matchOwner reads struct xt_owner_match_info.
func matchOwner(m *machine, i info) Answer {
	const uid, gid, socket, other = 1 << 0, 1 << 1, 1 << 2, ^byte(7)
	p, wanted, inverse := m.walk.packet, i.u8(16), i.u8(17)
	switch {
	case wanted&other != 0, p.Path == Inward:
		return Maybe
	case p.Path == Through: // no socket: only a rule that wants none holds
		return answer(wanted&^inverse&7 == 0)
	}
	a := Yes
	if wanted&socket != 0 {
		a = answer(inverse&socket == 0)
	}
	if wanted&uid != 0 {
		a = both(a, inverted(within(p.UID, i.u32(0), i.u32(4)), inverse&uid != 0))
	}
	if wanted&gid != 0 {
		a = both(a, inverted(within(p.GID, i.u32(8), i.u32(12)), inverse&gid != 0))
	}
	return a
}

func within(id *uint32, first, last uint32) Answer {
	if id == nil {
		return Maybe
	}
	return answer(first <= *id && *id <= last)
}

func matchTCP(m *machine, i info) Answer {
	const flagsInverse = 4
	if m.walk.packet.Protocol != "tcp" {
		return No
	}
	inverse := i.u8(11)
	flags := m.state.transport.part(tcpFlags, 1).and([]byte{i.u8(9)}).equals([]byte{i.u8(10)})
	a := both(matchPorts(m, i, inverse), inverted(flags, inverse&flagsInverse != 0))
	if i.u8(8) != 0 { // a TCP option
		a = both(a, Maybe)
	}
	return a
}

func matchUDP(m *machine, i info) Answer {
	if m.walk.packet.Protocol != "udp" {
		return No
	}
	return matchPorts(m, i, i.u8(8))
}

// matchPorts reads the ranges that struct xt_tcp and struct xt_udp begin with.
func matchPorts(m *machine, i info, inverse byte) Answer {
	return both(
		inverted(m.portWithin(0, i.u16(0), i.u16(2)), inverse&1 != 0),
		inverted(m.portWithin(2, i.u16(4), i.u16(6)), inverse&2 != 0))
}

// portWithin compares the source port, at 0, or the destination port, at 2.
func (m *machine) portWithin(at int, first, last uint16) Answer {
	port := m.state.transport.part(at, 2)
	return both(port.atLeast(big16(first).value), port.atMost(big16(last).value))
}

// matchMultiport reads struct xt_multiport_v1.
func matchMultiport(m *machine, i info) Answer {
	const fromSource, eitherOne = 0, 2
	const ports, ranges, inverse = 2, 32, 47
	kind, count := i.u8(0), min(int(i.u8(1)), 15)
	a := No
	for n := 0; n < count; n++ {
		first := i.u16(ports + 2*n)
		last := first
		if i.u8(ranges+n) != 0 { // the next is the end of a range
			n++
			last = i.u16(ports + 2*n)
		}
		if kind == fromSource || kind == eitherOne {
			a = either(a, m.portWithin(0, first, last))
		}
		if kind != fromSource {
			a = either(a, m.portWithin(2, first, last))
		}
	}
	return inverted(a, i.u8(inverse) != 0)
}

// matchMark reads struct xt_mark_mtinfo1.
func matchMark(m *machine, i info) Answer { return marked(m.state.mark, i) }

func matchConnmark(m *machine, i info) Answer {
	return both(m.tracked(), marked(m.state.flow.mark, i))
}

func marked(mark bits, i info) Answer {
	return inverted(mark.and(i.bytes(4, 4)).equals(i.bytes(0, 4)), i.u8(8) != 0)
}

// matchAddressType0 reads struct xt_addrtype_info.
func matchAddressType0(m *machine, i info) Answer {
	return both(
		typeAmong(m, false, i.u16(0), i.u32(4) != 0),
		typeAmong(m, true, i.u16(2), i.u32(8) != 0))
}

// matchAddressType reads struct xt_addrtype_info_v1.
func matchAddressType(m *machine, i info) Answer {
	const sourceInverse, destinationInverse, known = 1, 2, 3
	flags := i.u32(4)
	if flags&^uint32(known) != 0 {
		return Maybe
	}
	return both(
		typeAmong(m, false, i.u16(0), flags&sourceInverse != 0),
		typeAmong(m, true, i.u16(2), flags&destinationInverse != 0))
}

func typeAmong(m *machine, ofDestination bool, types uint16, inverse bool) Answer {
	if types == 0 {
		return Yes
	}
	t := addressType(m.walk.packet, ofDestination, m.state)
	if !t.certain() {
		return Maybe
	}
	return inverted(answer(types>>binary.NativeEndian.Uint32(t.value)&1 != 0), inverse)
}

// matchAddressRange reads struct xt_iprange_mtinfo.
func matchAddressRange(m *machine, i info) Answer {
	const ofSource, ofDestination, sourceInverse, destinationInverse = 1, 2, 16, 32
	flags, a := i.u8(64), Yes
	source, destination := m.state.addresses()
	if flags&ofSource != 0 {
		a = both(a, inverted(addressWithin(source, i, 0), flags&sourceInverse != 0))
	}
	if flags&ofDestination != 0 {
		a = both(a, inverted(addressWithin(destination, i, 32), flags&destinationInverse != 0))
	}
	return a
}

func addressWithin(address bits, i info, at int) Answer {
	size := len(address.value)
	return both(address.atLeast(i.bytes(at, size)), address.atMost(i.bytes(at+16, size)))
}

// matchReversePath reads struct xt_rpfilter_info.
func matchReversePath(m *machine, i info) Answer {
	const inverse = 8
	if !m.answersComeThisWay() {
		return Maybe
	}
	return inverted(Yes, i.u8(0)&inverse != 0)
}

// A Target is one of iptables' targets that iptables-nft wraps.
type Target struct {
	Name     string
	Revision uint32
	Info     []byte
}

// harmless are the targets after which the packet goes on to the next rule
// and that change nothing which rules look at.
var harmless = map[string]bool{
	"LOG": true, "NFLOG": true, "ULOG": true, "AUDIT": true, "TRACE": true, "CLASSIFY": true, "TCPMSS": true,
	"CHECKSUM": true, "DSCP": true, "TOS": true, "TTL": true, "HL": true, "SET": true, "TEE": true, "IDLETIMER": true,
	"SECMARK": true, "CONNSECMARK": true, "RATEEST": true, "LED": true, "TCPOPTSTRIP": true, "ECN": true,
}

func (t Target) run(m *machine) Answer {
	i := info(t.Info)
	switch t.Name {
	case "REJECT":
		m.verdict = Verdict{Code: verdictDrop, Rejects: true}
	case "MARK":
		m.state.mark = setMark(m, t.Revision == 2, i)
	case "CONNMARK":
		t.connmark(m, i)
	case "CT", "NOTRACK":
		if t.Name == "NOTRACK" || i.u16(0)&1 != 0 {
			return Notrack{}.run(m)
		}
	case "DNAT", "REDIRECT":
		return NAT{Destination: true}.run(m)
	case "SNAT", "MASQUERADE":
		return NAT{}.run(m)
	case "NFQUEUE":
		return Queue{}.run(m)
	default:
		if !harmless[t.Name] {
			return Unknown{"the iptables target " + t.Name}.run(m)
		}
	}
	return Yes
}

// setMark reads struct xt_mark_tginfo2.
func setMark(m *machine, understood bool, i info) bits {
	if !understood {
		return unknown(4)
	}
	return blend(m.state.mark, i.bytes(0, 4), i.bytes(4, 4))
}

// blend clears the bits of a mask and flips those of a value.
func blend(b bits, value, mask []byte) bits {
	keep := make([]byte, len(mask))
	for n := range mask {
		keep[n] = ^mask[n]
	}
	return b.and(keep).xor(value)
}

// connmark reads struct xt_connmark_tginfo1 or 2. What saving and restoring
// with masks does is not worked out.
func (t Target) connmark(m *machine, i info) {
	const set, save, restore = 0, 1, 2
	mode, shift := i.u8(12), byte(0)
	if t.Revision == 2 {
		mode, shift = i.u8(14), i.u8(13)
	}
	whole := shift == 0 && bytes.Equal(i.bytes(4, 8), bytes.Repeat([]byte{0xff}, 8))
	switch {
	case mode == set && m.tracked() == Yes && shift == 0:
		m.state.flow.mark = blend(m.state.flow.mark, i.bytes(0, 4), i.bytes(4, 4))
	case mode == save && m.tracked() == Yes && whole:
		m.state.flow.mark = m.state.mark.clone()
	case mode == restore && m.tracked() == Yes && whole:
		m.state.mark = m.state.flow.mark.clone()
	case mode == restore:
		m.state.mark = unknown(4)
	default:
		m.state.flow.mark = unknown(4)
	}
}
