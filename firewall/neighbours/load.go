package neighbours

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

type (
	// Meta loads a fact about the packet (NFT_META_*).
	Meta struct {
		Key uint32
		To  Register
	}
	// SetMeta changes one.
	SetMeta struct {
		Key  uint32
		From Register
	}
	// Payload loads bytes of a header (NFT_PAYLOAD_*).
	Payload struct {
		Base, Offset, Size uint32
		To                 Register
	}
	// SetPayload changes them.
	SetPayload struct{ Base, Offset, Size uint32 }
	// Option loads an extension header or option, or whether there is one
	// (NFT_EXTHDR_OP_*).
	Option struct {
		Op      uint32
		Present bool
		To      Register
	}
	// Socket loads a fact about the local socket (NFT_SOCKET_*).
	Socket struct {
		Key, Level uint32
		To         Register
	}
	// FIB asks the routing tables (NFT_FIB_RESULT_*, NFTA_FIB_F_*).
	FIB struct {
		Result, Flags uint32
		To            Register
	}
)

func (l Meta) run(m *machine) Answer {
	p := m.walk.packet
	switch l.Key {
	case unix.NFT_META_PROTOCOL:
		if p.isIPv6() {
			return m.load(l.To, big16(unix.ETH_P_IPV6), "")
		}
		return m.load(l.To, big16(unix.ETH_P_IP), "")
	case unix.NFT_META_NFPROTO:
		return m.load(l.To, known(p.family()), "")
	case unix.NFT_META_L4PROTO:
		return m.load(l.To, known(p.number()), "")
	case unix.NFT_META_MARK:
		return m.load(l.To, m.state.mark, "the packet's mark")
	case unix.NFT_META_IIF, unix.NFT_META_IIFNAME, unix.NFT_META_IIFTYPE:
		return m.loadInterface(l, p.In, m.hasInput())
	case unix.NFT_META_OIF, unix.NFT_META_OIFNAME, unix.NFT_META_OIFTYPE:
		return m.loadInterface(l, p.Out, m.hasOutput())
	case unix.NFT_META_SKUID:
		return m.loadOwner(l.To, p.UID, "the user")
	case unix.NFT_META_SKGID:
		return m.loadOwner(l.To, p.GID, "the group")
	case unix.NFT_META_PKTTYPE:
		if p.Path != Outward && p.In.Name != "lo" {
			return m.load(l.To, known(unix.PACKET_HOST), "")
		}
	}
	return m.guess(l.To, metaName(l.Key))
}

// metaName is for doubts; nobody needs all of them.
func metaName(key uint32) string {
	const secpath, kindFirst, kindLast, timeFirst, timeLast = 25, 26, 27, 30, 32
	switch {
	case key == unix.NFT_META_CGROUP:
		return "the cgroup's class"
	case key == secpath:
		return "IPsec"
	case kindFirst <= key && key <= kindLast:
		return "the kind of interface"
	case timeFirst <= key && key <= timeLast:
		return "the time"
	default:
		return "a fact about the packet that is not known"
	}
}

// hasInput and hasOutput say whether the hook knows the interface: a packet
// from a local process came in nowhere, and one that arrives has no way out yet.
func (m *machine) hasInput() Answer { return answer(m.walk.packet.Path != Outward) }

func (m *machine) hasOutput() Answer {
	if m.state.rerouted {
		return Maybe
	}
	switch m.place.base.Hook {
	case Ingress, Prerouting, Input:
		return No
	}
	return Yes
}

// loadInterface loads 0 or "" for none, as kernels do since 4.16.
func (m *machine) loadInterface(l Meta, i Interface, has Answer) Answer {
	if has == No {
		i = Interface{}
	}
	uncertain := has == Maybe || has == Yes && i.Name == ""
	switch l.Key {
	case unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME:
		if !uncertain {
			return m.load(l.To, known(interfaceName(i.Name)...), "")
		}
	case unix.NFT_META_IIF, unix.NFT_META_OIF:
		if !uncertain && (has == No || i.Index != 0) {
			return m.load(l.To, native32(i.Index), "")
		}
	default:
		if has == No { // there is no type to load, and the rule ends
			return No
		}
		if i.Name == "lo" {
			return m.load(l.To, native16(unix.ARPHRD_LOOPBACK), "")
		}
	}
	return m.guess(l.To, "the interface")
}

func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// loadOwner loads the user or group of the local socket. A packet that is
// forwarded has none, which ends the rule; one that arrives may not have it yet.
func (m *machine) loadOwner(to Register, id *uint32, name string) Answer {
	switch {
	case m.walk.packet.Path == Through:
		return No
	case m.walk.packet.Path == Outward && id != nil:
		return m.load(to, native32(*id), "")
	default:
		m.guess(to, name)
		return m.doubt(name)
	}
}

func (s SetMeta) run(m *machine) Answer {
	if s.Key == unix.NFT_META_MARK {
		m.state.mark = m.read(s.From, 4).clone()
	}
	return Yes
}

func (l Payload) run(m *machine) Answer {
	h, ok := m.header(l.Base, l.Offset, l.Size)
	if !ok {
		m.load(l.To, unknown(int(min(l.Size, registerSpace))), "the packet's content")
		return m.doubt("the packet's content")
	}
	return m.load(l.To, h, "a header field that is not known")
}

func (s SetPayload) run(m *machine) Answer {
	if h, ok := m.header(s.Base, s.Offset, s.Size); ok {
		h.put(0, unknown(len(h.value)))
	}
	return Yes
}

// header finds a part of a header; false where that reaches beyond.
func (m *machine) header(base, offset, size uint32) (bits, bool) {
	h := m.state.network
	switch base {
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		h = m.state.transport
	default:
		return bits{}, false
	}
	if uint64(offset)+uint64(size) > uint64(len(h.value)) {
		return bits{}, false
	}
	return h.part(int(offset), int(size)), true
}

// run knows that the packets have no extension headers and no IPv4 options.
func (o Option) run(m *machine) Answer {
	const ipv4 = 2 // NFT_EXTHDR_OP_IPV4
	switch {
	case o.Op != unix.NFT_EXTHDR_OP_IPV6 && o.Op != ipv4:
		m.guess(o.To, "options of the packet")
		return m.doubt("options of the packet")
	case o.Present:
		return m.load(o.To, known(0), "")
	default:
		return No
	}
}

func (s Socket) run(m *machine) Answer {
	const cgroupv2 = 3 // NFT_SOCKET_CGROUPV2
	p := m.walk.packet
	if s.Key != cgroupv2 || p.Path == Through || p.Cgroups == nil {
		m.guess(s.To, "the socket")
		return m.doubt("the socket")
	}
	if uint64(s.Level) >= uint64(len(p.Cgroups)) {
		return No
	}
	return m.load(s.To, known(binary.NativeEndian.AppendUint64(nil, p.Cgroups[s.Level])...), "")
}

func (f FIB) run(m *machine) Answer {
	switch {
	case f.Result == unix.NFT_FIB_RESULT_ADDRTYPE && f.Flags == unix.NFTA_FIB_F_SADDR:
		return m.load(f.To, addressType(m.walk.packet, false, m.state), "the type of an address")
	case f.Result == unix.NFT_FIB_RESULT_ADDRTYPE && f.Flags == unix.NFTA_FIB_F_DADDR:
		return m.load(f.To, addressType(m.walk.packet, true, m.state), "the type of an address")
	case f.Result != unix.NFT_FIB_RESULT_ADDRTYPE && f.Flags&unix.NFTA_FIB_F_SADDR != 0 && m.answersComeThisWay():
		return f.loadWayBack(m)
	default:
		return m.guess(f.To, "routes")
	}
}

// answersComeThisWay: traffic is made up so that a packet arrives where one to
// its source would leave. On lo the kernel asks no routes.
func (m *machine) answersComeThisWay() bool {
	p := m.walk.packet
	return p.Path != Outward && p.In.Name != "" && p.In.Name != "lo" && m.state.mark.equals(make([]byte, 4)) == Yes
}

func (f FIB) loadWayBack(m *machine) Answer {
	in := m.walk.packet.In
	switch {
	case f.Flags&unix.NFTA_FIB_F_PRESENT != 0:
		return m.load(f.To, known(1), "")
	case f.Result == unix.NFT_FIB_RESULT_OIFNAME:
		return m.load(f.To, known(interfaceName(in.Name)...), "")
	case in.Index != 0:
		return m.load(f.To, native32(in.Index), "")
	default:
		return m.guess(f.To, "routes")
	}
}

// addressType is RTN_LOCAL for addresses of this host, RTN_UNICAST for others.
func addressType(p Packet, ofDestination bool, s *state) bits {
	source, destination := s.addresses()
	a, local := source, p.Path == Outward
	if ofDestination {
		a, local = destination, p.Path == Inward
	}
	switch {
	case !a.certain():
		return unknown(4)
	case local, p.In.Name == "lo", p.Out.Name == "lo":
		return native32(unix.RTN_LOCAL)
	default:
		return native32(unix.RTN_UNICAST)
	}
}
