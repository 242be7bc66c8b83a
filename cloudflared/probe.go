package cloudflared

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A ProbeResult says whether Port of Cloudflare's side can be reached in one way.
type ProbeResult struct {
	Protocol string `json:"protocol"` // "tcp" or "udp"
	Family   string `json:"family"`   // "IPv4" or "IPv6"
	// Address is the one that answered, or else one of those that did not.
	Address netip.Addr `json:"address"`
	OK      bool       `json:"ok"`
	// Routed is false where no route leads to the address.
	Routed  bool   `json:"routed"`
	Problem string `json:"problem,omitempty"` // in words
}

const (
	// probePatience takes a SYN that is lost once, after which the kernel waits 1 s.
	probePatience = 3 * time.Second
	// probeAddresses is how many addresses are tried in each way.
	probeAddresses = 3
)

// Probe tries whether cloudflared could reach the edge: by each family that
// edge has addresses of, and by both protocols, all at once. It takes 3 s at most.
func Probe(ctx context.Context, edge []netip.Addr) []ProbeResult {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	var results []ProbeResult
	for _, family := range []string{"IPv4", "IPv6"} {
		if len(some(edge, family)) > 0 {
			results = append(results, ProbeResult{Protocol: "tcp", Family: family}, ProbeResult{Protocol: "udp", Family: family})
		}
	}
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i].try(ctx, some(edge, results[i].Family)) })
	}
	wg.Wait()
	return results
}

// some picks addresses of a family from the whole list, in which those of one
// region stand together.
func some(edge []netip.Addr, family string) []netip.Addr {
	var all, picked []netip.Addr
	for _, a := range edge {
		if a.Is4() == (family == "IPv4") {
			all = append(all, a)
		}
	}
	n := min(len(all), probeAddresses)
	for i := range n {
		picked = append(picked, all[i*len(all)/n])
	}
	return picked
}

// try settles the result by the first address that answers. If none does, an
// error that came tells more than silence.
func (r *ProbeResult) try(ctx context.Context, addresses []netip.Addr) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		address netip.Addr
		err     error
	}
	outcomes := make(chan outcome, len(addresses))
	for _, a := range addresses {
		go func() { outcomes <- outcome{a, reach(ctx, r.Protocol, netip.AddrPortFrom(a, Port))} }()
	}
	for range addresses {
		o := <-outcomes
		if r.OK = o.err == nil; r.OK {
			r.Address, r.Routed, r.Problem = o.address, true, ""
			return
		}
		if r.Problem == "" || !isTimeout(o.err) {
			r.Address, r.Problem = o.address, probeProblem(o.err)
			r.Routed = !errors.Is(o.err, unix.ENETUNREACH) && !errors.Is(o.err, unix.EADDRNOTAVAIL)
		}
	}
}

// reach returns nil if a server answers.
func reach(ctx context.Context, protocol string, to netip.AddrPort) error {
	dialer := net.Dialer{Control: reportErrors}
	c, err := dialer.DialContext(ctx, protocol, to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	if protocol == "tcp" {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	return negotiate(c)
}

// reportErrors has the kernel report every ICMP error. Of those for UDP it
// otherwise keeps "host unreachable" and others to itself (ip(7)).
func reportErrors(network, _ string, c syscall.RawConn) error {
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if network == "tcp6" || network == "udp6" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	var err error
	if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); e != nil {
		return e
	}
	return err
}

const (
	// idSize is the least that a server must take for the ID of a first packet (RFC 9000, 7.2).
	idSize = 8
	// helloSize is the least that a server must answer (RFC 9000, 14.1).
	helloSize = 1200
	// unknownVersion is one of the versions that no server speaks (RFC 9000, 15).
	unknownVersion = 0x1a2a3a4a
)

// negotiate sends a packet of an unknown QUIC version, which every server
// answers with the versions that it knows (RFC 9000, 6.1), and waits for that.
func negotiate(c net.Conn) error {
	hello := newHello()
	if _, err := c.Write(hello); err != nil {
		return err
	}
	answer := make([]byte, 64<<10)
	for {
		n, err := c.Read(answer)
		if err != nil {
			return err
		}
		if answers(hello, answer[:n]) {
			return nil
		}
	}
}

// newHello makes a packet with a long header (RFC 8999, 5.1): flags, version,
// and two IDs, each after its length.
func newHello() []byte {
	packet := make([]byte, helloSize)
	_, _ = rand.Read(packet) // never fails
	packet[0] |= 0xc0        // long header; the second bit is always set before version negotiation
	binary.BigEndian.PutUint32(packet[1:], unknownVersion)
	packet[5], packet[6+idSize] = idSize, idSize
	return packet
}

// answers reports whether a packet is a version negotiation in answer to hello:
// version 0, and the IDs the other way round (RFC 8999, 6).
func answers(hello, packet []byte) bool {
	const header = 7 + 2*idSize
	if len(packet) < header || packet[0]&0x80 == 0 || binary.BigEndian.Uint32(packet[1:]) != 0 {
		return false
	}
	to, from := hello[5:6+idSize], hello[6+idSize:header]
	return bytes.Equal(packet[5:header], append(bytes.Clone(from), to...))
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// reasons are what the errors of a first packet mean.
var reasons = []struct {
	err   syscall.Errno
	words string
}{
	{unix.EPERM, "a firewall rule of this host does not let it out"},
	{unix.ECONNREFUSED, "refused: a firewall rejects it, or nobody listens there"},
	{unix.EACCES, "prohibited by a firewall or a route"},
	{unix.EHOSTUNREACH, "host unreachable, or a firewall rejects it"},
	{unix.ENETUNREACH, "no route to it"},
	{unix.EADDRNOTAVAIL, "this host has no address to send from"},
}

func probeProblem(err error) string {
	if isTimeout(err) {
		return fmt.Sprintf("no answer within %s: dropped on the way, or nobody is there", probePatience)
	}
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.words
		}
	}
	return err.Error()
}
