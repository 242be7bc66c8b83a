package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Listener is a socket that waits for clients.
type Listener struct {
	Protocol string // "tcp" or "udp"
	Address  netip.AddrPort
	UID      uint32 // the user that made it
	Inode    uint32 // as in /proc/PID/fd
	// Cgroup is the inode number of the directory, below /sys/fs/cgroup, of the
	// control group it was made in; 0 where the kernel does not say.
	Cgroup uint64
	// OnlyIPv6 is true of one at :: that takes no IPv4 (IPV6_V6ONLY, ipv6(7)).
	OnlyIPv6 bool
}

// A Connection is a TCP connection of this host, seen from one of its ends:
// one between two programs of this host is listed twice.
type Connection struct {
	Local, Remote netip.AddrPort
	UID, Inode    uint32 // as of a Listener; 0 where its program has closed it

	// The name by which Destroy finds the socket. An IPv4 connection may be
	// one of a socket of IPv6.
	family byte
	id     socketID
}

// A socketID is struct inet_diag_sockid: addresses, ports and a cookie that no
// later socket has.
type socketID [48]byte

// A socketQuery asks for the sockets of a protocol and family in some states.
type socketQuery struct {
	name             string
	family, protocol byte
	states           uint32 // bits, of the numbers in include/net/tcp_states.h
}

const (
	// A TCP socket listens, and a UDP socket is not connected, which the
	// kernel calls TCP_LISTEN and TCP_CLOSE.
	listening    = 1 << 10
	notConnected = 1 << 7
	// Data still flows in at least one direction: TCP_ESTABLISHED, and after
	// one side has said that it sends no more, TCP_FIN_WAIT1, TCP_FIN_WAIT2
	// and TCP_CLOSE_WAIT. Before, no program has the connection yet; after,
	// none has it any more.
	connected = 1<<1 | 1<<4 | finWait2 | 1<<8
	finWait2  = 1 << 5
)

var listenerQueries = []socketQuery{
	{"tcp", unix.AF_INET, unix.IPPROTO_TCP, listening},
	{"tcp", unix.AF_INET6, unix.IPPROTO_TCP, listening},
	{"udp", unix.AF_INET, unix.IPPROTO_UDP, notConnected},
	{"udp", unix.AF_INET6, unix.IPPROTO_UDP, notConnected},
}

var connectionQueries = []socketQuery{
	{"tcp", unix.AF_INET, unix.IPPROTO_TCP, connected},
	{"tcp", unix.AF_INET6, unix.IPPROTO_TCP, connected},
}

// Listeners lists the sockets that wait for clients, of both families, by
// sock_diag: /proc/net/tcp has the kernel walk its table of connections, which
// costs milliseconds on a machine with much memory.
func Listeners() ([]Listener, error) {
	var all []Listener
	err := eachSocket(listenerQueries, func(protocol string, s socket) {
		all = append(all, Listener{protocol, s.local, s.uid, s.inode, s.cgroup, s.onlyIPv6})
	})
	return all, err
}

// Connections lists the TCP connections on which data may still flow, of both
// families. Errors are those of this package.
func Connections() ([]Connection, error) {
	var all []Connection
	err := eachSocket(connectionQueries, func(_ string, s socket) {
		// Of a socket that its program has closed, data is refused.
		if 1<<s.state != finWait2 || s.inode != 0 {
			all = append(all, Connection{s.local, s.remote, s.uid, s.inode, s.family, s.id})
		}
	})
	return all, err
}

// Destroy closes a connection that Connections listed: the program here gets
// ECONNABORTED, the other end a reset. One that is gone already is no error.
// Other errors are those of this package; ErrUnsupported is that of a kernel
// without CONFIG_INET_DIAG_DESTROY.
func Destroy(c Connection) error {
	d, err := dialSockets()
	if err != nil {
		return err
	}
	defer d.Close()
	q := socketQuery{family: c.family, protocol: unix.IPPROTO_TCP}
	_, err = d.Execute(q.message(unix.SOCK_DESTROY, netlink.Acknowledge, c.id))
	// ESTALE: another connection has its addresses by now.
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) {
		return nil
	}
	return classify(fmt.Sprintf("closing the connection of %s to %s", c.Local, c.Remote), err)
}

func dialSockets() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{MessageBufferSize: receiveSize})
	if err != nil {
		return nil, classify("opening a netlink socket", err)
	}
	return c, c.SetDeadline(time.Now().Add(timeout)) // many sockets take a while
}

// eachSocket hands over the sockets that the queries find.
func eachSocket(queries []socketQuery, each func(protocol string, s socket)) error {
	c, err := dialSockets()
	if err != nil {
		return err
	}
	defer c.Close()
	for _, q := range queries {
		if q.family == unix.AF_INET6 && !hasIPv6() {
			continue
		}
		answers, err := c.Execute(q.message(unix.SOCK_DIAG_BY_FAMILY, netlink.Dump, socketID{}))
		if err != nil {
			return classify(fmt.Sprintf("listing %s sockets", q.name), err)
		}
		for _, m := range answers {
			if s, ok := parseSocket(m.Data); ok {
				each(q.name, s)
			}
		}
	}
	return nil
}

// message encodes struct inet_diag_req_v2 (linux/inet_diag.h); an ID of zeros
// matches every socket.
func (q socketQuery) message(kind netlink.HeaderType, flags netlink.HeaderFlags, id socketID) netlink.Message {
	data := make([]byte, 8, 8+len(id))
	data[0], data[1] = q.family, q.protocol
	binary.NativeEndian.PutUint32(data[4:], q.states)
	return netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | flags},
		Data:   append(data, id[:]...),
	}
}

// A socket is what the kernel tells of one.
type socket struct {
	family, state byte
	id            socketID
	local, remote netip.AddrPort
	uid, inode    uint32
	cgroup        uint64
	onlyIPv6      bool
}

const (
	onlyIPv6 = 11 // INET_DIAG_SKV6ONLY: one byte
	cgroupID = 21 // INET_DIAG_CGROUP_ID, which kernels have since Linux 5.9
)

// parseSocket reads struct inet_diag_msg and the attributes after it: family,
// state, from byte 4 the ID (ports, then addresses of 16 bytes), at byte 64 the
// user and at byte 68 the inode.
func parseSocket(data []byte) (socket, bool) {
	const size, id, uid, inode = 72, 4, 64, 68
	if len(data) < size {
		return socket{}, false
	}
	s := socket{
		family: data[0], state: data[1], id: socketID(data[id:]),
		uid:   binary.NativeEndian.Uint32(data[uid:]),
		inode: binary.NativeEndian.Uint32(data[inode:]),
	}
	s.local = address(s.family, s.id[4:], s.id[0:])
	s.remote = address(s.family, s.id[20:], s.id[2:])
	f := parseFields(data[size:])
	v6 := f.fixed(onlyIPv6, 1)
	s.onlyIPv6 = v6 != nil && v6[0] != 0
	if v := f.fixed(cgroupID, 8); v != nil {
		s.cgroup = binary.NativeEndian.Uint64(v)
	}
	return s, true
}

// address reads an address and a port. One of IPv4 is the same wherever it
// stands in a socket of IPv6.
func address(family byte, ip, port []byte) netip.AddrPort {
	length := 16
	if family == unix.AF_INET {
		length = 4
	}
	a, _ := netip.AddrFromSlice(ip[:length])
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
}
