package lab

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrSilent says that nothing at all came back in time, which is how a
// dropped packet looks. Every other error of Dial means that something
// came back: the packet, or a part of the conversation, got through.
var ErrSilent = errors.New("no answer")

// A probe that should pass returns at once when it does, so its patience is
// for a busy machine; one that should not costs its patience every time.
const (
	patience      = 3 * time.Second
	shortPatience = 200 * time.Millisecond
)

// concurrent bounds the probes, and so the threads, that are under way at once.
const concurrent = 256

// A Probe is one conversation that a test tries.
type Probe struct {
	Network string         // "tcp" or "udp"
	From    netip.Addr     // an address of the host or of its Anycast networks; the zero Addr lets the kernel choose
	To      netip.AddrPort // where an echo is served
	Admit   bool           // what the test expects; it decides how long to wait
}

// String prints "tcp 192.0.2.1 -> 192.0.2.2:443".
func (p Probe) String() string { return fmt.Sprintf("%s %s -> %s", p.Network, p.From, p.To) }

// A Result is a Probe and how it went: Err is what Dial returned.
type Result struct {
	Probe
	Err error
}

// Admitted reports whether anything came back: an echo, or a refusal of
// the host itself, which no dropped packet can cause.
func (r Result) Admitted() bool { return !errors.Is(r.Err, ErrSilent) }

// Expected reports whether the probe went as the test expects: with Admit a
// whole echo came back, without it nothing at all.
func (r Result) Expected() bool {
	if r.Admit {
		return r.Err == nil
	}
	return !r.Admitted()
}

// DialMany tries probes, many at a time, and returns the results in their
// order. It waits 3 s for one with Admit, 200 ms for one without.
func (h *Host) DialMany(probes []Probe) []Result {
	results := make([]Result, len(probes))
	var wg sync.WaitGroup
	slots := make(chan struct{}, concurrent)
	for i, p := range probes {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			timeout := shortPatience
			if p.Admit {
				timeout = patience
			}
			results[i] = Result{p, h.Dial(p.Network, p.From, p.To, timeout)}
		})
	}
	wg.Wait()
	return results
}

// Unexpected returns the results that are not Expected.
func Unexpected(results []Result) []Result {
	var bad []Result
	for _, r := range results {
		if !r.Expected() {
			bad = append(bad, r)
		}
	}
	return bad
}

// Dial connects to an echo service and returns nil if the echo comes back,
// an error that is ErrSilent if nothing does, and other errors else, such as
// ECONNREFUSED, or a TCP connection that was accepted but is mute.
func (h *Host) Dial(network string, from netip.Addr, to netip.AddrPort, timeout time.Duration) error {
	dialer := net.Dialer{Deadline: time.Now().Add(timeout), Control: bindAnywhere}
	if from.IsValid() {
		dialer.LocalAddr = localAddr(network, from)
	}
	var conn net.Conn
	var err error
	h.Do(func() { conn, err = dialer.Dial(network, to.String()) })
	if err != nil {
		return silentIfTimeout(err)
	}
	defer conn.Close()
	if network == "udp" {
		return silentIfTimeout(echoUDP(conn, dialer.Deadline))
	}
	conn.SetDeadline(dialer.Deadline)
	if err := echo(conn); err != nil {
		return fmt.Errorf("accepted, but no echo: %w", err)
	}
	return nil
}

// echoUDP asks again every half second: nobody else resends a lost datagram.
func echoUDP(conn net.Conn, deadline time.Time) error {
	for {
		again := time.Now().Add(500 * time.Millisecond)
		if again.After(deadline) {
			again = deadline
		}
		conn.SetDeadline(again)
		err := echo(conn)
		if !errors.Is(err, os.ErrDeadlineExceeded) || again.Equal(deadline) {
			return err
		}
	}
}

func echo(conn net.Conn) error {
	const word = "cfwall"
	if _, err := io.WriteString(conn, word); err != nil {
		return err
	}
	answer := make([]byte, len(word))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if string(answer) != word {
		return fmt.Errorf("got %q for an echo", answer)
	}
	return nil
}

func silentIfTimeout(err error) error {
	var e net.Error
	if errors.As(err, &e) && e.Timeout() {
		return fmt.Errorf("%w: %w", ErrSilent, err)
	}
	return err
}

// bindAnywhere lets an IPv6 socket bind to an Anycast address, which the
// kernel does not count among the host's own; IPv4 would not need it.
func bindAnywhere(network, _ string, c syscall.RawConn) error {
	is6 := network == "tcp6" || network == "udp6"
	return setOption(c, is6, unix.IP_FREEBIND, unix.IPV6_FREEBIND)
}

func localAddr(network string, from netip.Addr) net.Addr {
	if network == "udp" {
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
}
