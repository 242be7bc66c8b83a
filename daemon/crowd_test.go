package daemon

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cfwall/cfwall/internal/lab"
)

// Who sends to UDP port 443 of the web host: guests are in [allow] from, intruders
// are nobody's.
var (
	guests    = []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8:f::7")}
	intruders = []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:bad::7")}
)

var crowdWish = wish{from: []string{guests[0].String(), guests[1].String()}}

// amount is how often to do something, in a normal run and in a long one.
func amount(normal, long int) int {
	if os.Getenv("CFWALL_SOAK") != "" {
		return long
	}
	return normal
}

// A crowd sends datagrams to the web host, turn by turn guests and intruders, and
// counts what arrives at the program there: rules that count would be flushed with
// the others.
type crowd struct {
	site    *lab.Site
	sent    [2]atomic.Int64 // by guests, by intruders
	arrived [2]atomic.Int64
	stop    chan struct{}
	wg      sync.WaitGroup
}

// pace is the pause between two rounds of datagrams.
const pace = 500 * time.Microsecond

func newCrowd(t *testing.T, s *lab.Site) *crowd {
	t.Helper()
	c := &crowd{site: s, stop: make(chan struct{})}
	for _, a := range append(append([]netip.Addr{}, guests...), intruders...) {
		s.Client.Addr("lo", netip.PrefixFrom(a, a.BitLen()))
	}
	for _, network := range []string{"udp4", "udp6"} {
		var err error
		var l *net.UDPConn
		s.Web.Do(func() { l, err = net.ListenUDP(network, &net.UDPAddr{Port: 443}) })
		if err == nil {
			err = l.SetReadBuffer(4 << 20)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go c.receive(l)
	}
	for i := range guests {
		c.send(t, guests[i], &c.sent[0])
		c.send(t, intruders[i], &c.sent[1])
	}
	t.Cleanup(c.halt)
	return c
}

func (c *crowd) receive(l *net.UDPConn) {
	b := make([]byte, 16)
	for {
		_, from, err := l.ReadFromUDPAddrPort(b)
		if err != nil {
			return // closed by the cleanup
		}
		who := 1
		if a := from.Addr().Unmap(); a == guests[0] || a == guests[1] {
			who = 0
		}
		c.arrived[who].Add(1)
	}
}

func (c *crowd) send(t *testing.T, from netip.Addr, sent *atomic.Int64) {
	t.Helper()
	to := netip.AddrPortFrom(lab.Web4, 443)
	if from.Is6() {
		to = netip.AddrPortFrom(lab.Web6, 443)
	}
	var conn *net.UDPConn
	var err error
	c.site.Client.Do(func() {
		conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(to))
	})
	if err != nil {
		t.Fatal(err)
	}
	c.wg.Go(func() {
		defer conn.Close()
		for {
			select {
			case <-c.stop:
				return
			case <-time.After(pace):
			}
			if _, err := conn.Write([]byte("x")); err == nil { // an ICMP error is one of the last write
				sent.Add(1)
			}
		}
	})
}

func (c *crowd) halt() {
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	c.wg.Wait()
}

// leaked is how many datagrams of intruders have arrived by now.
func (c *crowd) leaked() int64 { return c.arrived[1].Load() }

// verdict ends the sending, and says how many datagrams of intruders arrived, and
// how many of guests did not.
func (c *crowd) verdict(t *testing.T) (leaked, lost int64) {
	t.Helper()
	c.halt()
	if c.sent[0].Load() == 0 || c.sent[1].Load() == 0 {
		t.Fatal("nobody sent anything")
	}
	for deadline := time.Now().Add(3 * time.Second); c.arrived[0].Load() < c.sent[0].Load() && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("guests sent %d and %d arrived; intruders sent %d and %d arrived", c.sent[0].Load(), c.arrived[0].Load(), c.sent[1].Load(), c.arrived[1].Load())
	return c.leaked(), c.sent[0].Load() - c.arrived[0].Load()
}
