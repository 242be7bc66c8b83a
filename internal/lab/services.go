package lab

import (
	"context"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// ListenTCP serves an echo on each address, such as ":443" (both families)
// or "192.0.2.2:443", until the test ends.
func (h *Host) ListenTCP(addresses ...string) {
	h.t.Helper()
	for _, address := range addresses {
		var l net.Listener
		var err error
		h.Do(func() { l, err = net.Listen("tcp", address) })
		h.check(err, "listening")
		h.t.Cleanup(func() { l.Close() })
		go serveTCP(l)
	}
}

func serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed by the cleanup
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// ListenUDP serves an echo on each address, such as ":443" (both families)
// or "192.0.2.2:443", until the test ends.
func (h *Host) ListenUDP(addresses ...string) {
	h.t.Helper()
	for _, address := range addresses {
		var c net.PacketConn
		var err error
		listen := net.ListenConfig{Control: tellDestination}
		h.Do(func() { c, err = listen.ListenPacket(context.Background(), "udp", address) })
		h.check(err, "listening")
		h.t.Cleanup(func() { c.Close() })
		go serveUDP(c.(*net.UDPConn))
	}
}

// serveUDP answers from the address that was asked: the control message that
// came with the question, sent back, chooses it.
func serveUDP(c *net.UDPConn) {
	data, control := make([]byte, 64<<10), make([]byte, 128)
	for {
		n, m, _, from, err := c.ReadMsgUDPAddrPort(data, control)
		if err != nil {
			return // closed by the cleanup
		}
		c.WriteMsgUDPAddrPort(data[:n], control[:m], from)
	}
}

func tellDestination(network, _ string, c syscall.RawConn) error {
	return setOption(c, network == "udp6", unix.IP_PKTINFO, unix.IPV6_RECVPKTINFO)
}

// setOption switches a socket option on: v4 of an IPv4 socket, v6 of the other.
func setOption(c syscall.RawConn, is6 bool, v4, v6 int) error {
	level, option := unix.IPPROTO_IP, v4
	if is6 {
		level, option = unix.IPPROTO_IPV6, v6
	}
	var err error
	if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); e != nil {
		return e
	}
	return err
}
