package packettest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/cfwall/cfwall/internal/lab"
)

// A router beyond the client, and a host beyond that.
var (
	near4, near6     = netip.MustParseAddr("198.18.1.1"), netip.MustParseAddr("2001:db8:1::1")
	middle4, middle6 = netip.MustParseAddr("198.18.1.2"), netip.MustParseAddr("2001:db8:1::2")
	far4, far6       = netip.MustParseAddr("198.18.2.2"), netip.MustParseAddr("2001:db8:2::2")
)

// newRoad is a site with a host at the end of a road of three links, of which
// the one in the middle takes smaller packets than the others.
func newRoad(t *testing.T, mtu int) (s *lab.Site, far *lab.Host) {
	t.Helper()
	s = newSite(t)
	middle := s.Net.Host("middle")
	far = s.Net.Host("far")
	s.Net.Connect(s.Client, "eth1", middle, "eth0")
	s.Net.Connect(middle, "eth1", far, "eth0")
	for _, at := range []struct{ near, middle, far netip.Addr }{{near4, middle4, far4}, {near6, middle6, far6}} {
		bits := 24
		if at.far.Is6() {
			bits = 64
		}
		s.Client.Addr("eth1", netip.PrefixFrom(at.near, bits))
		middle.Addr("eth0", netip.PrefixFrom(at.middle, bits))
		middle.Addr("eth1", netip.PrefixFrom(at.far.Prev(), bits))
		far.Addr("eth0", netip.PrefixFrom(at.far, bits))
		everywhere := netip.PrefixFrom(pick(at.far, netip.IPv4Unspecified(), netip.IPv6Unspecified()), 0)
		far.Route(everywhere, at.far.Prev(), "eth0")
		middle.Route(everywhere, at.near, "eth0")
		s.Client.Route(netip.PrefixFrom(at.far, bits).Masked(), at.middle, "eth1")
	}
	for _, h := range []*lab.Host{s.Client, middle} {
		h.Sysctl("net/ipv4/ip_forward", "1")
		h.Sysctl("net/ipv6/conf/all/forwarding", "1")
	}
	s.Client.MTU("eth1", mtu)
	middle.MTU("eth0", mtu)
	return s, far
}

// The host hears from a router that its packets are too large, and sends
// smaller ones. Where it does not hear it, the control, nothing large arrives.
func TestInboundPathMTU(t *testing.T) {
	for _, mtu := range []int{1280, 1400} {
		for _, deaf := range []bool{true, false} {
			t.Run(fmt.Sprintf("MTU %d, deaf %t", mtu, deaf), func(t *testing.T) {
				t.Parallel()
				testPathMTU(t, mtu, deaf)
			})
		}
	}
}

func testPathMTU(t *testing.T, mtu int, deaf bool) {
	s, far := newRoad(t, mtu)
	if deaf {
		s.Web.Nft(t, `table inet deaf {
			chain in {
				type filter hook prerouting priority 0
				icmp type destination-unreachable drop
				icmpv6 type packet-too-big drop
			}
		}`)
	}
	sink(t, far, ":22")
	s.Web.ListenTCP(":22")
	enforce(t, s.Web, closedInbound(defaults()))
	for _, to := range []netip.Addr{far4, far6} {
		err := upload(s.Web, netip.AddrPortFrom(to, 22), deaf)
		if arrived := err == nil; arrived == deaf {
			t.Errorf("1 MiB from the host to %s: %v", to, err)
		}
		err = download(far, web(to, 22), deaf)
		if arrived := err == nil; arrived == deaf {
			t.Errorf("1 MiB by way of the host's open port to %s: %v", to, err)
		}
	}
}

const mebibyte = 1 << 20

func waitFor(mayFail bool) time.Time {
	if mayFail {
		return time.Now().Add(time.Second)
	}
	return time.Now().Add(10 * time.Second)
}

// upload sends a mebibyte to a sink and waits for its receipt.
func upload(h *lab.Host, to netip.AddrPort, mayFail bool) error {
	c, err := dialTCP(h, netip.AddrPort{}, to, patient)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(waitFor(mayFail))
	if _, err := c.Write(make([]byte, mebibyte)); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// download has an echo service send a mebibyte back.
func download(h *lab.Host, from netip.AddrPort, mayFail bool) error {
	c, err := dialTCP(h, netip.AddrPort{}, from, patient)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(waitFor(mayFail))
	go c.Write(make([]byte, mebibyte))
	_, err = io.ReadFull(c, make([]byte, mebibyte))
	return err
}

// sink takes a mebibyte from each client and says so with a byte.
func sink(t *testing.T, h *lab.Host, address string) {
	t.Helper()
	serve(t, h, address, func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, mebibyte)); err == nil {
			c.Write([]byte{1})
		}
		io.Copy(io.Discard, c)
	})
}

// serve gives each client of a port to a function.
func serve(t *testing.T, h *lab.Host, address string, each func(net.Conn)) {
	t.Helper()
	var l net.Listener
	var err error
	h.Do(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed by the cleanup
			}
			go func() {
				defer c.Close()
				each(c)
			}()
		}
	}()
}

// What the host asks of others is answered, by errors too.
func TestInboundAnswers(t *testing.T) {
	for name, p := range map[string]posture{"as it is": asIs, "closed": closedInbound} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testAnswers(t, p)
		})
	}
}

func testAnswers(t *testing.T, p posture) {
	s, far := newRoad(t, 1400)
	for _, h := range []*lab.Host{s.Client, far} {
		h.ListenTCP(":443", ":7844")
		h.ListenUDP(":53", ":7844")
	}
	enforce(t, s.Web, p(defaults()))
	for _, to := range []netip.Addr{far4, far6, edge4, edge6, stranger4, stranger6} {
		expect(t, s.Web,
			lab.Probe{Network: "tcp", To: netip.AddrPortFrom(to, 443), Admit: true},
			lab.Probe{Network: "tcp", To: netip.AddrPortFrom(to, 7844), Admit: true},
			lab.Probe{Network: "udp", To: netip.AddrPortFrom(to, 53), Admit: true},
			lab.Probe{Network: "udp", To: netip.AddrPortFrom(to, 7844), Admit: true})
		for what, got := range map[string]error{
			"ping":                             ping(s.Web, pick(to, lab.Web4, lab.Web6), to),
			"connection from port 900":         talk(s.Web, web(to, 900), netip.AddrPortFrom(to, 443)),
			"question and answer in fragments": question{to: netip.AddrPortFrom(to, 53), size: 4000}.ask(s.Web),
		} {
			if got != nil {
				t.Errorf("LOST %s to %s: %v", what, to, got)
			}
		}
		for what, got := range map[string]error{
			"refusal":          s.Web.Dial("tcp", netip.Addr{}, netip.AddrPortFrom(to, 444), time.Second),
			"port unreachable": question{to: netip.AddrPortFrom(to, 54), size: 16}.ask(s.Web),
		} {
			if !errors.Is(got, syscall.ECONNREFUSED) {
				t.Errorf("LOST %s from %s: got %v", what, to, got)
			}
		}
	}
	for _, to := range []netip.Addr{far4, far6} {
		for hops := 1; hops <= 2; hops++ { // as traceroute does
			got := question{to: netip.AddrPortFrom(to, 33434), size: 16, hops: hops}.ask(s.Web)
			if !errors.Is(got, syscall.EHOSTUNREACH) {
				t.Errorf("LOST time exceeded on hop %d to %s: got %v", hops, to, got)
			}
		}
	}
}
