package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Listener is a socket that waits for clients.
type Listener struct {
	Protocol string // "tcp" or "udp"
	Address  netip.AddrPort
	UID      uint32 // the user that made it
	Inode    uint32 // as in /proc/PID/fd
}

// Listeners lists the sockets that wait for clients, of both families, by
// sock_diag: /proc/net/tcp has the kernel walk its table of connections, which
// costs milliseconds on a machine with much memory.
func Listeners() ([]Listener, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{MessageBufferSize: receiveSize})
	if err != nil {
		return nil, classify("opening a netlink socket", err)
	}
	defer c.Close()
	var all []Listener
	for _, q := range socketQueries {
		if q.family == unix.AF_INET6 && !hasIPv6() {
			continue
		}
		answers, err := c.Execute(q.message())
		if err != nil {
			return nil, classify(fmt.Sprintf("listing %s sockets", q.name), err)
		}
		for _, m := range answers {
			if l, ok := parseSocket(m.Data); ok {
				l.Protocol = q.name
				all = append(all, l)
			}
		}
	}
	return all, nil
}

// A socketQuery asks for the sockets of a protocol and family in some states.
type socketQuery struct {
	name             string
	family, protocol byte
	states           uint32
}

// A TCP socket listens, and a UDP socket is not connected, which the kernel
// calls TCP_LISTEN and TCP_CLOSE (include/net/tcp_states.h).
const (
	listening    = 1 << 10
	notConnected = 1 << 7
)

var socketQueries = []socketQuery{
	{"tcp", unix.AF_INET, unix.IPPROTO_TCP, listening},
	{"tcp", unix.AF_INET6, unix.IPPROTO_TCP, listening},
	{"udp", unix.AF_INET, unix.IPPROTO_UDP, notConnected},
	{"udp", unix.AF_INET6, unix.IPPROTO_UDP, notConnected},
}

// message encodes struct inet_diag_req_v2 (linux/inet_diag.h), which is 56
// bytes: all but the first eight stay zero and match every socket.
func (q socketQuery) message() netlink.Message {
	data := make([]byte, 56)
	data[0], data[1] = q.family, q.protocol
	binary.NativeEndian.PutUint32(data[4:], q.states)
	return netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
		Data:   data,
	}
}

// parseSocket reads struct inet_diag_msg: the family, then from byte 4 the
// local port and from byte 8 the local address, at byte 64 the user and at byte
// 68 the inode.
func parseSocket(data []byte) (Listener, bool) {
	const size, port, address, uid, inode = 72, 4, 8, 64, 68
	if len(data) < size {
		return Listener{}, false
	}
	length := 16
	if data[0] == unix.AF_INET {
		length = 4
	}
	a, ok := netip.AddrFromSlice(data[address : address+length])
	return Listener{
		Address: netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(data[port:])),
		UID:     binary.NativeEndian.Uint32(data[uid:]),
		Inode:   binary.NativeEndian.Uint32(data[inode:]),
	}, ok
}
