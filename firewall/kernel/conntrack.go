package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Flow is a conversation that the kernel tracks: one of this host, or one
// that it forwards.
type Flow struct {
	Protocol            string         // "tcp" or "udp"
	Source, Destination netip.AddrPort // of the first packet, before any translation
	// Packets and Bytes are those of both directions; 0 where the kernel does
	// not count them (net.netfilter.nf_conntrack_acct).
	Packets, Bytes uint64
	Replied        bool // packets have come back

	answering netip.AddrPort // whence answers come, behind any translation
}

// Constants of linux/netfilter/nfnetlink_conntrack.h, which x/sys lacks.
const (
	conntrackGet = 1 // IPCTNL_MSG_CT_GET

	conntrackTuple         = 1  // CTA_TUPLE_ORIG
	conntrackReply         = 2  // CTA_TUPLE_REPLY
	conntrackStatus        = 3  // CTA_STATUS
	conntrackCounters      = 9  // CTA_COUNTERS_ORIG
	conntrackReplyCounters = 10 // CTA_COUNTERS_REPLY
	conntrackFilter        = 25 // CTA_FILTER

	tupleAddresses       = 1 // CTA_TUPLE_IP
	tuplePorts           = 2 // CTA_TUPLE_PROTO
	tupleSource4         = 1 // CTA_IP_V4_SRC
	tupleDestination4    = 2 // CTA_IP_V4_DST
	tupleSource6         = 3 // CTA_IP_V6_SRC
	tupleDestination6    = 4 // CTA_IP_V6_DST
	tupleProtocol        = 1 // CTA_PROTO_NUM
	tupleSourcePort      = 2 // CTA_PROTO_SRC_PORT
	tupleDestinationPort = 3 // CTA_PROTO_DST_PORT
	counterPackets       = 1 // CTA_COUNTERS_PACKETS
	counterBytes         = 2 // CTA_COUNTERS_BYTES
	statusReplied        = 2 // IPS_SEEN_REPLY

	filterFlags           = 1     // CTA_FILTER_ORIG_FLAGS
	filterReplyFlags      = 2     // CTA_FILTER_REPLY_FLAGS
	filterAddresses       = 1 | 2 // net/netfilter/nf_internals.h
	filterProtocol        = 1 << 3
	filterSourcePort      = 1 << 4
	filterDestinationPort = 1 << 5
)

var protocolNumbers = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}

// Flows lists the flows of a protocol, "tcp" or "udp", whose first packet went
// to a port, of both families. A kernel tracks nothing where no rule asks it to
// and where it cannot: the list is then empty. Errors are those of this package.
func (k *Kernel) Flows(ctx context.Context, protocol string, port uint16) ([]Flow, error) {
	return uninterrupted(ctx, "listing tracked flows", func() ([]Flow, error) { return k.flowsOnce(ctx, protocol, port) })
}

func (k *Kernel) flowsOnce(ctx context.Context, protocol string, port uint16) ([]Flow, error) {
	c, err := k.open(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var flows []Flow
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		err := eachFlow(c, flowQuery(family, protocol, port), func(f Flow) {
			if f.Protocol == protocol && f.Destination.Port() == port {
				flows = append(flows, f)
			}
		})
		// nfnetlink answers EINVAL for a part that it does not have.
		if errors.Is(err, unix.EINVAL) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return flows, nil
}

// flowQuery asks for the flows to a port. Kernels before 5.8 do not know the
// filter and list all flows. Those after want a family with it, and its flags
// in the byte order of the host.
func flowQuery(family byte, protocol string, port uint16) netlink.Message {
	m := request(0, netlink.Dump, family, attributes(func(e *netlink.AttributeEncoder) {
		e.Nested(conntrackTuple, func(tuple *netlink.AttributeEncoder) error {
			tuple.Nested(tuplePorts, func(ports *netlink.AttributeEncoder) error {
				ports.Uint8(tupleProtocol, protocolNumbers[protocol])
				ports.Uint16(tupleDestinationPort, port)
				return nil
			})
			return nil
		})
		e.Nested(conntrackFilter, func(filter *netlink.AttributeEncoder) error {
			filter.Bytes(filterFlags, binary.NativeEndian.AppendUint32(nil, filterProtocol|filterDestinationPort))
			return nil
		})
	}))
	m.Header.Type = unix.NFNL_SUBSYS_CTNETLINK<<8 | conntrackGet
	return m
}

// ReachedAt is where the client of a TCP connection sent its first packet: at
// another address or port than the local one where the host translates it. Of a
// connection that is not tracked it is the local one.
func (k *Kernel) ReachedAt(ctx context.Context, local, remote netip.AddrPort) (netip.AddrPort, error) {
	c, err := k.open(ctx)
	if err != nil {
		return local, err
	}
	defer c.Close()
	reached := local
	err = eachFlow(c, answerQuery(local, remote), func(f Flow) {
		if f.Protocol == "tcp" && f.answering == local && f.Source == remote {
			reached = f.Destination
		}
	})
	// EINVAL: as in Flows. A dump that was interrupted has either shown it, or
	// the connection is as good as not tracked.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, errInterrupted) {
		err = nil
	}
	return reached, err
}

// answerQuery asks for the flows whose answers go between the ports of two ends.
// It is a dump: the answer to a plain request says that another follows, which
// does not come. Addresses are left to us: of IPv6 the kernel's filter takes
// those that differ (ctnetlink_filter_match_tuple, seen on 6.18).
func answerQuery(from, to netip.AddrPort) netlink.Message {
	family := byte(unix.NFPROTO_IPV4)
	if from.Addr().Is6() {
		family = unix.NFPROTO_IPV6
	}
	m := request(0, netlink.Dump, family, attributes(func(e *netlink.AttributeEncoder) {
		e.Nested(conntrackReply, func(tuple *netlink.AttributeEncoder) error {
			tuple.Nested(tuplePorts, func(ports *netlink.AttributeEncoder) error {
				ports.Uint8(tupleProtocol, unix.IPPROTO_TCP)
				ports.Uint16(tupleSourcePort, from.Port())
				ports.Uint16(tupleDestinationPort, to.Port())
				return nil
			})
			return nil
		})
		e.Nested(conntrackFilter, func(filter *netlink.AttributeEncoder) error {
			filter.Bytes(filterReplyFlags, binary.NativeEndian.AppendUint32(nil, filterProtocol|filterSourcePort|filterDestinationPort))
			return nil
		})
	}))
	m.Header.Type = unix.NFNL_SUBSYS_CTNETLINK<<8 | conntrackGet
	return m
}

// eachFlow hands over the flows of the answers to a query.
func eachFlow(c conn, query netlink.Message, each func(Flow)) error {
	const doing = "listing tracked flows"
	sent, err := c.Send(query)
	if err != nil {
		return classify(doing, err)
	}
	for m, err := range c.ReceiveIter() {
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
			return errInterrupted
		case err != nil:
			return classify(doing, err)
		case m.Header.Sequence != sent.Header.Sequence, m.Header.Flags&netlink.DumpInterrupted != 0:
			return errInterrupted
		}
		if f, ok := parseFlow(messageFields(m)); ok {
			each(f)
		}
	}
	return nil
}

// parseFlow reads one flow. Those of protocols without ports are none.
func parseFlow(f fields) (Flow, bool) {
	tuple := parseFields(f.bytes(conntrackTuple))
	addresses, ports := parseFields(tuple.bytes(tupleAddresses)), parseFields(tuple.bytes(tuplePorts))
	flow := Flow{
		Source:      endpoint(&addresses, tupleSource4, tupleSource6, ports.fixed(tupleSourcePort, 2)),
		Destination: endpoint(&addresses, tupleDestination4, tupleDestination6, ports.fixed(tupleDestinationPort, 2)),
		Replied:     f.number(conntrackStatus)&statusReplied != 0,
	}
	reply := parseFields(f.bytes(conntrackReply))
	replyAddresses, replyPorts := parseFields(reply.bytes(tupleAddresses)), parseFields(reply.bytes(tuplePorts))
	flow.answering = endpoint(&replyAddresses, tupleSource4, tupleSource6, replyPorts.fixed(tupleSourcePort, 2))
	number := ports.fixed(tupleProtocol, 1)
	for name, n := range protocolNumbers {
		if len(number) == 1 && number[0] == n {
			flow.Protocol = name
		}
	}
	for _, direction := range []uint16{conntrackCounters, conntrackReplyCounters} {
		counters := parseFields(f.bytes(direction))
		flow.Packets += counters.number64(counterPackets)
		flow.Bytes += counters.number64(counterBytes)
	}
	return flow, flow.Protocol != "" && flow.Source.IsValid() && flow.Destination.IsValid()
}

// endpoint is not valid where the address or the port is missing.
func endpoint(addresses *fields, type4, type6 uint16, port []byte) netip.AddrPort {
	ip := addresses.fixed(type4, 4)
	if ip == nil {
		ip = addresses.fixed(type6, 16)
	}
	a, ok := netip.AddrFromSlice(ip)
	if !ok || port == nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
}
