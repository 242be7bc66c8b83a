package packettest

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/ipranges"
)

// The tunnel lives through switches of the mode and reloads.
func TestSwitchesKeepTheTunnel(t *testing.T) {
	modes := []firewall.Mode{firewall.ModeTunnel, firewall.ModeCloudflare}
	tests := []struct {
		name string
		next func(i int, configs *reloads) wanted
	}{
		{"the mode", func(i int, _ *reloads) wanted { return combination{mode: modes[i%2]}.wanted() }},
		{"the mode, all else closed", func(i int, _ *reloads) wanted { return combination{modes[i%2], true, true}.wanted() }},
		{"the config", func(_ int, configs *reloads) wanted { return tunnelled(configs.next()) }},
		{"the config, all else closed", func(_ int, configs *reloads) wanted {
			w := closedInbound(closedOutbound(tunnelled(configs.next())))
			w.policy.Tunnel.Edge, _ = ipranges.TunnelEdge("global")
			return w
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newOutside(t, lab.Edge{})
			configs := reloads{rand.New(rand.NewPCG(3, 2026)), s.Web, make(map[string]bool)}
			enforce(t, s.Web, tt.next(1, &configs))
			tun := startTunnel(t, s)
			n := amount(100, 2000)
			for done := 0; done < n; {
				if enforce(t, s.Web, tt.next(done, &configs)) {
					done++
				}
			}
			tun.stop()
			t.Logf("%d changes: %v", n, tun)
			tun.check(t)
		})
	}
}

// A tunnel is what cloudflared keeps up: flows from the web host to the edge,
// over TCP and UDP, by both families.
type tunnel struct {
	flows   []*flow
	start   time.Time
	ended   chan struct{}
	senders sync.WaitGroup
	readers sync.WaitGroup
}

func startTunnel(t *testing.T, s *lab.Site) *tunnel {
	t.Helper()
	tun := &tunnel{start: time.Now(), ended: make(chan struct{})}
	for _, a := range []netip.Addr{edgesOf["global"][0], edgesOf["global"][2]} {
		to := netip.AddrPortFrom(a, 7844)
		tun.flows = append(tun.flows, streamFlow(t, s.Web, to), datagramFlow(t, s.Web, to))
	}
	for _, f := range tun.flows {
		t.Cleanup(func() { f.conn.Close() })
		tun.senders.Go(func() { f.send(tun.ended) })
		tun.readers.Go(f.receive)
	}
	return tun
}

// A flow sends numbers, a thousand a second where the machine has the time,
// and gets them back.
type flow struct {
	name           string
	conn           io.Closer
	write, read    func([]byte) error
	sent, received atomic.Int64
	next           atomic.Int64 // after the highest number that came back
	failed         error        // what ended the connection, once the reader has ended
}

func streamFlow(t *testing.T, web *lab.Host, to netip.AddrPort) *flow {
	t.Helper()
	var c net.Conn
	var err error
	web.Do(func() { c, err = net.DialTimeout("tcp", to.String(), 3*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	return &flow{
		name: "tcp " + to.String(), conn: c,
		write: func(b []byte) error { _, err := c.Write(b); return err },
		read:  func(b []byte) error { _, err := io.ReadFull(c, b); return err },
	}
}

func datagramFlow(t *testing.T, web *lab.Host, to netip.AddrPort) *flow {
	t.Helper()
	var c *net.UDPConn
	var err error
	web.Do(func() { c, err = net.ListenUDP("udp", &net.UDPAddr{}) })
	if err != nil {
		t.Fatal(err)
	}
	return &flow{
		name: "udp " + to.String(), conn: c,
		// A datagram that is refused is lost, and the next may pass.
		write: func(b []byte) error { c.WriteToUDPAddrPort(b, to); return nil },
		read:  func(b []byte) error { _, _, err := c.ReadFromUDPAddrPort(b); return err },
	}
}

// underWay bounds what a flow has sent and not got back, so that no queue
// overflows on a busy machine: what is missing was dropped.
const underWay = 64

func (f *flow) send(ended <-chan struct{}) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		n := f.sent.Load()
		if n-f.next.Load() >= underWay && time.Since(last) < 100*time.Millisecond {
			continue
		}
		f.sent.Add(1)
		last = time.Now()
		if err := f.write(binary.BigEndian.AppendUint64(nil, uint64(n))); err != nil {
			return // the reader fails too
		}
	}
}

func (f *flow) receive() {
	b := make([]byte, 8)
	came := make(map[uint64]bool)
	for {
		if f.failed = f.read(b); f.failed != nil {
			return
		}
		n := binary.BigEndian.Uint64(b)
		if !came[n] {
			came[n] = true
			f.received.Add(1)
		}
		f.next.Store(max(f.next.Load(), int64(n)+1))
	}
}

func (f *flow) lost() int64 { return f.sent.Load() - f.received.Load() }

// stop ends the flows once what is under way has had time to come back.
func (tun *tunnel) stop() {
	close(tun.ended)
	tun.senders.Wait()
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline) && tun.lost() > 0; {
		time.Sleep(time.Millisecond)
	}
	for _, f := range tun.flows {
		f.conn.Close()
	}
	tun.readers.Wait()
}

func (tun *tunnel) lost() (n int64) {
	for _, f := range tun.flows {
		n += f.lost()
	}
	return n
}

func (tun *tunnel) String() string {
	words := []string{fmt.Sprintf("tunnel of %v", time.Since(tun.start).Round(time.Millisecond))}
	for _, f := range tun.flows {
		words = append(words, fmt.Sprintf("%s: %d of %d lost", f.name, f.lost(), f.sent.Load()))
	}
	return strings.Join(words, ", ")
}

// check judges flows that have stopped.
func (tun *tunnel) check(t *testing.T) {
	t.Helper()
	for _, f := range tun.flows {
		if f.lost() != 0 || f.sent.Load() < 100 {
			t.Errorf("LOST or too little of %s: %d of %d, %v", f.name, f.lost(), f.sent.Load(), f.failed)
		}
	}
}
