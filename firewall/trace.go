package firewall

import (
	"net/netip"
	"slices"
	"strings"
)

// A Packet is what the rules can see of a packet that comes in, or that this
// host itself sends.
type Packet struct {
	Source      netip.Addr // of packets that come in
	Destination netip.Addr // of packets that leave: valid for those alone
	Protocol    string     // "tcp" or "udp"
	SourcePort  uint16     // 0: one that no rule names
	Port        uint16     // destination
	Interface   string     // by which it comes or leaves; "" for one that no rule names
	Opening     bool       // TCP: SYN without ACK
	Answer      bool       // to a packet that went the other way
	User        uint32     // who sends it
}

// A Decision says what becomes of a packet and why.
type Decision struct {
	// Verdict is Accept or Drop. Accept leaves the packet to the other
	// tables of the host.
	Verdict VerdictKind
	// WouldDrop is true where the packet passes only because of Policy.Audit.
	WouldDrop bool
	// Chain and Rule decided; Rule is zero where no rule matched.
	Chain string
	Rule  Rule
	// Element is the entry of a set that matched last, and Set its name.
	Set     string
	Element Element
	// Guarded is false where the packet's port is not guarded at all.
	Guarded bool
	// Certain is false where the table holds what this version does not know
	// or does not follow: instructions, verdicts, chains at other hooks.
	Certain bool
}

// Decide follows a packet to or from this host through the rules as the kernel would.
func (r Ruleset) Decide(p Packet) Decision {
	t := tracer{ruleset: r, packet: p, decision: Decision{Verdict: Accept, Certain: true}}
	if r.Family == FamilyIP && p.family() == ipv6 {
		return t.decision
	}
	t.doubt(r.Flags != 0)
	for _, c := range r.baseChains() {
		if slices.Contains(p.others(), c.Hook.Point) {
			continue
		}
		t.doubt(c.Hook.Foreign != "" || !slices.Contains(p.way(), c.Hook.Point))
		t.chain(c)
		if t.decision.Verdict == Drop || t.decision.WouldDrop {
			break
		}
	}
	return t.decision
}

func (r Ruleset) baseChains() []Chain {
	var base []Chain
	for _, c := range r.Chains {
		if c.Hook != (Hook{}) {
			base = append(base, c)
		}
	}
	slices.SortStableFunc(base, func(a, b Chain) int { return int(a.Hook.Priority) - int(b.Hook.Priority) })
	return base
}

var (
	hooksIn  = []string{"prerouting"}
	hooksOut = []string{"output", "postrouting"}
)

// way lists the hooks that a packet passes, others those that it does not.
func (p Packet) way() []string {
	if p.Destination.IsValid() {
		return hooksOut
	}
	return hooksIn
}

func (p Packet) others() []string {
	if p.Destination.IsValid() {
		return hooksIn
	}
	return hooksOut
}

type tracer struct {
	ruleset  Ruleset
	packet   Packet
	register string
	decision Decision
}

func (t *tracer) doubt(unknown bool) {
	if unknown {
		t.decision.Certain = false
	}
}

func (t *tracer) chain(c Chain) {
	for _, r := range c.Rules {
		verdict, matched := t.rule(r)
		if !matched {
			continue
		}
		if verdict.Kind == Goto {
			next, _ := t.ruleset.Chain(verdict.Goto)
			t.decision.Guarded = true
			t.chain(next)
			return
		}
		// A later chain that only waves through what guard admitted decides nothing.
		if verdict.Kind == Drop || !t.decision.Guarded || c.Hook == (Hook{}) {
			t.decision.Verdict, t.decision.Chain, t.decision.Rule = verdict.Kind, c.Name, r
		}
		return
	}
}

func (t *tracer) rule(r Rule) (Verdict, bool) {
	for _, e := range r.Code {
		switch e := e.(type) {
		case Verdict:
			known := e.Kind == Accept || e.Kind == Drop || e.Kind == Goto
			t.doubt(!known)
			return e, known
		case Reject:
			return Verdict{Kind: Drop}, true
		}
		if !t.step(e) {
			return Verdict{}, false
		}
	}
	return Verdict{}, false
}

// step runs one instruction and reports whether the rule goes on.
func (t *tracer) step(e Expr) bool {
	switch e := e.(type) {
	case Meta:
		return t.load(t.packet.meta(e.Key))
	case Payload:
		return t.load(t.packet.payload(e))
	case Conntrack:
		return t.load(t.packet.conntrack(e.Key))
	case HasFragmentHeader:
		return t.load("\x00", true)
	case DestinationType:
		return t.load(native32(typeLocal), true)
	case And:
		return t.load(mask(t.register, e.Mask))
	case Equal:
		return strings.HasPrefix(t.register, e.Data) != e.Not
	case AtLeast:
		return t.register >= e.Data
	case AtMost:
		return t.register <= e.Data
	case OneOf:
		t.doubt(e.Width != len(t.register))
		return e.holds(t.register) != e.Not
	case InSet:
		return t.look(e.Name)
	case Count:
		t.decision.WouldDrop = t.decision.WouldDrop || countsAudit(e)
		return true
	case Into, Remember:
		return true
	default:
		return t.load("", false)
	}
}

func (t *tracer) load(value string, known bool) bool {
	t.doubt(!known)
	t.register = value
	return known
}

func (t *tracer) look(set string) bool {
	s, _ := t.ruleset.Set(set)
	t.doubt(s.Foreign != "")
	e, ok := s.holds(t.register)
	if ok {
		t.decision.Set, t.decision.Element = set, e
	}
	return ok
}

func (s Set) holds(key string) (Element, bool) {
	return find(s.Elements, func(e Element) bool {
		if s.Type == TypeInterface {
			return InterfaceKey(e.Name) == key
		}
		a, _ := netip.AddrFromSlice([]byte(key))
		return e.Range.Contains(a)
	})
}

func (o OneOf) holds(key string) bool {
	for values := range slices.Chunk([]byte(o.Values), max(o.Width, 1)) {
		if string(values) == key {
			return true
		}
	}
	return false
}

func mask(value, mask string) (masked string, ok bool) {
	b := []byte(value)
	for i := range min(len(value), len(mask)) {
		b[i] &= mask[i]
	}
	return string(b), len(value) == len(mask)
}

func (p Packet) meta(key MetaKey) (string, bool) {
	switch key {
	case MetaFamily:
		return string([]byte{p.family().number}), true
	case MetaProtocol:
		return string([]byte{p.protocol().number}), true
	case MetaInputName, MetaOutputName:
		return InterfaceKey(p.Interface), true
	case MetaInputIndex, MetaOutputIndex:
		if p.Interface == "lo" {
			return native32(1), true
		}
		return native32(0), true
	case MetaUser:
		return native32(p.User), p.Destination.IsValid()
	default:
		return "", false
	}
}

func (p Packet) conntrack(key ConntrackKey) (string, bool) {
	const isNew = 8
	switch {
	case key == ConntrackDirection && p.Answer:
		return "\x01", true
	case key == ConntrackDirection:
		return "\x00", true
	case key == ConntrackState && p.Answer:
		return native32(stateEstablished), true
	case key == ConntrackState:
		return native32(isNew), true
	default:
		return "", false
	}
}

func (p Packet) payload(l Payload) (string, bool) {
	f := p.family()
	switch {
	case l == loadPort:
		return big16(p.Port), true
	case l == Payload{TransportHeader, 0, 4}:
		return big16(p.SourcePort) + big16(p.Port), true
	case l.Base == NetworkHeader && l.Offset == f.source && l.Len <= f.size && p.Source.IsValid():
		return string(p.Source.AsSlice()[:l.Len]), true
	case l.Base == NetworkHeader && l.Offset == f.destination && l.Len <= f.size && p.Destination.IsValid():
		return string(p.Destination.AsSlice()[:l.Len]), true
	case l == loadFlags && p.Protocol == "tcp" && p.Opening:
		return "\x02", true
	case l == loadFlags && p.Protocol == "tcp":
		return "\x10", true
	default:
		return "", false
	}
}

func (p Packet) family() addressFamily {
	if p.Destination.IsValid() {
		return familyOf(p.Destination)
	}
	return familyOf(p.Source)
}

func (p Packet) protocol() protocol {
	if p.Protocol == "udp" {
		return udp
	}
	return tcp
}
