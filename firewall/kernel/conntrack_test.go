package kernel

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

// newTracker is a web host that tracks and counts what it sends to a client,
// with a conversation of every kind under way.
func newTracker(t *testing.T) host {
	lab.Kernel(t)
	s := lab.NewSite(t)
	s.Client.ListenTCP(":7844")
	s.Client.ListenUDP(":7844", ":443")
	s.Web.Nft(t, `table inet test { chain out {
		type filter hook output priority 0
		ct state new accept
		}
	}`)
	s.Web.Sysctl("net/netfilter/nf_conntrack_acct", "1")
	var probes []lab.Probe
	for _, to := range []string{"192.0.2.1:7844", "[2001:db8::1]:7844", "192.0.2.1:443"} {
		probes = append(probes, lab.Probe{Network: "udp", To: netip.MustParseAddrPort(to), Admit: true})
	}
	for _, to := range []string{"192.0.2.1:7844", "[2001:db8::1]:7844"} {
		probes = append(probes, lab.Probe{Network: "tcp", To: netip.MustParseAddrPort(to), Admit: true})
	}
	for _, r := range lab.Unexpected(s.Web.DialMany(probes)) {
		t.Fatalf("%v: %v", r.Probe, r.Err)
	}
	return host{s.Web, New()}
}

func (h host) flows(t *testing.T, protocol string, port uint16) (all []Flow, err error) {
	h.Do(func() { all, err = h.kernel.Flows(t.Context(), protocol, port) })
	slices.SortFunc(all, func(a, b Flow) int { return a.Source.Compare(b.Source) })
	return all, err
}

// expectFlows wants one flow of each family to port 7844.
func (h host) expectFlows(t *testing.T, protocol string) {
	t.Helper()
	all, err := h.flows(t, protocol, 7844)
	if err != nil || len(all) != 2 {
		t.Fatalf("%s: %+v, %v; want two", protocol, all, err)
	}
	for i, addresses := range [][2]netip.Addr{{lab.Web4, lab.Client4}, {lab.Web6, lab.Client6}} {
		f := all[i]
		switch {
		case f.Protocol != protocol, f.Source.Addr() != addresses[0], f.Source.Port() == 0,
			f.Destination != netip.AddrPortFrom(addresses[1], 7844),
			!f.Replied, f.Packets < 2, f.Bytes < 28*f.Packets: // headers of IPv4 and UDP
			t.Errorf("%s: got %+v", protocol, f)
		}
	}
}

func TestFlows(t *testing.T) {
	h := newTracker(t)
	h.expectFlows(t, "udp")
	h.expectFlows(t, "tcp")
	if all, err := h.flows(t, "tcp", 443); err != nil || len(all) > 0 {
		t.Errorf("nobody went there: %v, %v", all, err)
	}
}

func TestFlowWithoutAnswer(t *testing.T) {
	h := newTracker(t)
	nobody := netip.MustParseAddrPort("192.0.2.1:7845")
	h.Nft(t, `table inet test { chain in {
		type filter hook input priority 0
		drop
		}
	}`)
	if err := h.Dial("udp", netip.Addr{}, nobody, 50*time.Millisecond); !errors.Is(err, lab.ErrSilent) {
		t.Fatal(err)
	}
	all, err := h.flows(t, "udp", nobody.Port())
	if err != nil || len(all) != 1 || all[0].Replied || all[0].Packets == 0 {
		t.Errorf("got %+v, %v", all, err)
	}
}

// TestFlowsWhereNothingIsTracked: no rule has asked the kernel for it.
func TestFlowsWhereNothingIsTracked(t *testing.T) {
	h := newHost(t)
	h.ListenUDP(":7844")
	if err := h.Dial("udp", netip.Addr{}, netip.MustParseAddrPort("127.0.0.1:7844"), 3*time.Second); err != nil {
		t.Fatal(err)
	}
	if all, err := h.flows(t, "udp", 7844); err != nil || len(all) > 0 {
		t.Errorf("got %v, %v", all, err)
	}
}

// TestFlowsOfKernels: what the kernel answers depends on its age and parts. Ours
// filters; one before Linux 5.8 does not.
func TestFlowsOfKernels(t *testing.T) {
	h := newTracker(t)
	answers := 0
	counting := fault{receive: func(*netlink.Message) error {
		answers++
		return nil
	}}
	h.with(func(int) fault { return counting }).expectFlows(t, "udp")
	if answers != 2 {
		t.Errorf("the kernel answered %d times: it did not filter", answers)
	}
	unfiltered := func(all []netlink.Message) error {
		all[0].Data = all[0].Data[:4]
		return nil
	}
	h.with(func(int) fault { return fault{send: unfiltered} }).expectFlows(t, "udp")

	const unknown = 200 // a subsystem that no kernel has
	absent := func(all []netlink.Message) error {
		all[0].Header.Type = unknown<<8 | conntrackGet
		return nil
	}
	if all, err := h.with(func(int) fault { return fault{send: absent} }).flows(t, "udp", 7844); err != nil || len(all) > 0 {
		t.Errorf("without ctnetlink: %v, %v", all, err)
	}
}

func TestFlowsOfInterruptedDumps(t *testing.T) {
	h := newTracker(t)
	interrupted := fault{receive: func(m *netlink.Message) error {
		m.Header.Flags |= netlink.DumpInterrupted
		return nil
	}}
	once := func(which int) fault {
		if which == 1 {
			return interrupted
		}
		return fault{}
	}
	h.with(once).expectFlows(t, "udp")
	if _, err := h.with(func(int) fault { return interrupted }).flows(t, "udp", 7844); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
	lost := fault{receive: func(*netlink.Message) error { return &netlink.OpError{Op: "receive", Err: unix.ENOMEM} }}
	if _, err := h.with(func(int) fault { return lost }).flows(t, "udp", 7844); !errors.Is(err, ErrUncertain) {
		t.Errorf("got %v", err)
	}
}

func TestFlowsWithoutCapability(t *testing.T) {
	h := newHost(t)
	var err error
	h.Do(func() {
		err = withoutCapability(func() error {
			_, err := h.kernel.Flows(t.Context(), "udp", 7844)
			return err
		})
	})
	if !errors.Is(err, ErrPermission) {
		t.Errorf("got %v", err)
	}
}

func FuzzParseFlow(f *testing.F) {
	f.Add([]byte{})
	for _, size := range []int{4, 16, 5} {
		f.Add(attributes(func(e *netlink.AttributeEncoder) {
			e.Nested(conntrackTuple, func(tuple *netlink.AttributeEncoder) error {
				tuple.Nested(tupleAddresses, func(ip *netlink.AttributeEncoder) error {
					ip.Bytes(tupleSource4, make([]byte, size))
					ip.Bytes(tupleDestination6, make([]byte, size))
					return nil
				})
				tuple.Nested(tuplePorts, func(ports *netlink.AttributeEncoder) error {
					ports.Uint8(tupleProtocol, unix.IPPROTO_UDP)
					ports.Uint16(tupleSourcePort, 1)
					ports.Uint16(tupleDestinationPort, 7844)
					return nil
				})
				return nil
			})
			e.Uint32(conntrackStatus, statusReplied)
		}))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		flow, ok := parseFlow(parseFields(data))
		if ok && (protocolNumbers[flow.Protocol] == 0 || !flow.Source.IsValid() || !flow.Destination.IsValid()) {
			t.Errorf("%x is the flow %+v", data, flow)
		}
	})
}
