package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// SendFrame puts a frame on a link as it is, past the host's own stack.
func (h *Host) SendFrame(link string, frame []byte) {
	h.t.Helper()
	fd, to := h.packetSocket(link)
	defer unix.Close(fd)
	h.check(unix.Sendto(fd, frame, 0, to), "sending a frame on %s", link)
}

// Stream puts frames on a link, past the host's own stack, each of them once in
// every interval, until stop is called or the test ends. What the link does not
// take is lost, as it is where the other end has no power.
func (h *Host) Stream(link string, interval time.Duration, frames ...[]byte) (stop func()) {
	h.t.Helper()
	fd, to := h.packetSocket(link)
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	sending.Go(func() {
		defer unix.Close(fd)
		for tick := time.Tick(interval); ctx.Err() == nil; <-tick {
			for _, f := range frames {
				_ = unix.Sendto(fd, f, 0, to)
			}
		}
	})
	stop = func() { cancel(); sending.Wait() }
	h.t.Cleanup(stop)
	return stop
}

func (h *Host) packetSocket(link string) (fd int, to *unix.SockaddrLinklayer) {
	h.t.Helper()
	to = &unix.SockaddrLinklayer{Ifindex: h.link(link).Attrs().Index}
	var err error
	h.Do(func() { fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) })
	h.check(err, "opening a packet socket")
	return fd, to
}

// floodBurst is how many packets go out between two looks at the context.
const floodBurst = 64

// Flood sends TCP SYNs or UDP datagrams to a target, from each of the sources
// in turn, as fast as one thread can until ctx is done, and returns how many
// it sent. The sources need not be addresses of this host; they are of the
// target's family.
func (h *Host) Flood(ctx context.Context, network string, sources []netip.Addr, target netip.AddrPort) (sent int, err error) {
	var fd int
	h.Do(func() { fd, err = rawSocket(target.Addr()) })
	if err != nil {
		return 0, fmt.Errorf("opening the flood's socket: %w", err)
	}
	defer unix.Close(fd)
	packets := floodPackets(network, sources, target)
	for ctx.Err() == nil {
		for range floodBurst {
			_, err := unix.Write(fd, packets[sent%len(packets)])
			if errors.Is(err, unix.ENOBUFS) {
				break // a full queue: not sent, not counted
			}
			if err != nil {
				return sent, fmt.Errorf("flooding %s: %w", target, err)
			}
			sent++
		}
	}
	return sent, nil
}

// rawSocket takes whole IP packets for a target; the kernel adds the frame.
func rawSocket(target netip.Addr) (int, error) {
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: target.As16()})
	if target.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: target.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, to); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func floodPackets(network string, sources []netip.Addr, target netip.AddrPort) [][]byte {
	packets := make([][]byte, len(sources))
	for i, s := range sources {
		from := netip.AddrPortFrom(s, 40000)
		p := IP{From: s, To: target.Addr(), Protocol: unix.IPPROTO_TCP, Payload: SYN(from, target)}
		if network == "udp" {
			p.Protocol, p.Payload = unix.IPPROTO_UDP, Datagram(from, target, []byte("flood"))
		}
		packets[i] = p.Bytes()
	}
	return packets
}
