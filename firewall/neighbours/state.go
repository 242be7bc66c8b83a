package neighbours

// A state is what rules may have changed of a packet and its flow. Where
// several ways through the rules meet, it holds what is true on all of them.
type state struct {
	network, transport bits
	mark               bits
	flow               flow
	// rerouted is true where a chain of type route may have chosen another way out.
	rerouted bool
	// diverted says whether destination NAT sends the packet elsewhere, and by is the rule.
	diverted Answer
	by       place
	// doubt is the first rule on the way that was not understood; nil where all were.
	doubt *doubt
}

// A flow is what conntrack keeps from packet to packet.
type flow struct {
	mark bits
	// untracked says whether conntrack was told to look away.
	untracked Answer
	// translated is true where NAT may have changed its addresses.
	translated bool
}

// A doubt is a rule and what it depends on.
type doubt struct {
	place place
	on    string
}

func newFlow() flow { return flow{mark: native32(0)} }

func newState(p Packet, f flow) *state {
	s := &state{mark: native32(0), flow: f}
	s.flow.mark = f.mark.clone()
	s.network, s.transport = p.headers()
	s.flow.untracked = No // each packet is told apart
	if p.Reply && f.translated {
		s.forgetDestination()
	}
	return s
}

func (s *state) clone() *state {
	c := *s
	c.network, c.transport, c.mark, c.flow.mark = s.network.clone(), s.transport.clone(), s.mark.clone(), s.flow.mark.clone()
	return &c
}

// join returns what is true of both; nil stands for a way that nobody takes.
// Its arguments are used up.
func join(a, b *state) *state {
	if a == nil || a == b {
		return b
	}
	if b == nil {
		return a
	}
	a.network.forget(b.network)
	a.transport.forget(b.transport)
	a.mark.forget(b.mark)
	a.flow.mark.forget(b.flow.mark)
	if a.flow.untracked != b.flow.untracked {
		a.flow.untracked = Maybe
	}
	if a.diverted != b.diverted {
		a.diverted = Maybe
	}
	a.flow.translated = a.flow.translated || b.flow.translated
	a.rerouted = a.rerouted || b.rerouted
	if a.doubt == nil {
		a.doubt = b.doubt
	}
	return a
}

// addresses are where source and destination lie in the network header.
func (s *state) addresses() (source, destination bits) {
	if len(s.network.value) == networkSize {
		return s.network.part(8, 16), s.network.part(24, 16)
	}
	return s.network.part(12, 4), s.network.part(16, 4)
}

func (s *state) forgetSource() {
	source, _ := s.addresses()
	source.put(0, unknown(len(source.value)))
	s.transport.put(0, unknown(2))
	s.flow.translated = true
}

func (s *state) forgetDestination() {
	_, destination := s.addresses()
	destination.put(0, unknown(len(destination.value)))
	s.transport.put(2, unknown(2))
	s.flow.translated = true
}
