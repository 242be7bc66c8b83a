package packettest

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cfwall/cfwall/internal/lab"
)

// Whoever is connected when the rules come is judged by them with the next
// packet, and what waits for that packet waits in vain. That is not so at ports
// to which answers come: there only the opening of a connection is judged.
func TestEstablishedConnectionsAreCut(t *testing.T) {
	tests := map[string]func(*testing.T, *lab.Site) *streams{
		"of the host": func(t *testing.T, s *lab.Site) *streams {
			return stream(t, s.Web, ":443")
		},
		"of a host that tracks connections": func(t *testing.T, s *lab.Site) *streams {
			s.Web.Nft(t, `table inet stateful {
				chain in {
					type filter hook input priority filter
					ct state established accept
				}
			}`)
			return stream(t, s.Web, ":443")
		},
		"of a container behind DNAT": func(t *testing.T, s *lab.Site) *streams {
			container := s.Container()
			s.Web.Nft(t, strings.ReplaceAll(publish, "8443", "443"))
			return stream(t, container, ":443")
		},
	}
	for name, serve := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			served := serve(t, s)
			var conns []*peer
			for _, from := range everyone {
				conns = append(conns, connect(t, s.Client, from, web(from, 443), served))
			}
			for _, p := range conns {
				p.expectFlow(t, true)
			}

			enforce(t, s.Web, withFriends())
			time.Sleep(time.Second) // what is under way may still come
			for _, p := range conns {
				stranger := p.from == stranger4 || p.from == stranger6
				p.expectFlow(t, !stranger)
			}
		})
	}
}

// streams is a server that sends without end, and counts what it gets from whom.
type streams struct {
	received map[netip.Addr]*atomic.Int64
}

func stream(t *testing.T, h *lab.Host, address string) *streams {
	t.Helper()
	s := &streams{make(map[netip.Addr]*atomic.Int64)}
	for _, a := range everyone {
		s.received[a] = new(atomic.Int64)
	}
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
			from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
			go s.count(c, from)
			go trickle(c)
		}
	}()
	return s
}

func (s *streams) count(c net.Conn, from netip.Addr) {
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		s.received[from].Add(int64(n))
		if err != nil {
			return
		}
	}
}

// trickle sends 100 KiB a second until the connection ends. What the window
// and the buffers hold is sent in well under a second.
func trickle(c net.Conn) {
	defer c.Close()
	for b := make([]byte, 1024); ; time.Sleep(10 * time.Millisecond) {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// A peer is a connected client that sends without end and counts what it gets.
type peer struct {
	from           netip.Addr
	sent, received *atomic.Int64 // at their ends
}

func connect(t *testing.T, h *lab.Host, from netip.Addr, to netip.AddrPort, s *streams) *peer {
	t.Helper()
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: 3 * time.Second}
	var c net.Conn
	var err error
	h.Do(func() { c, err = dialer.Dial("tcp", to.String()) })
	if err != nil {
		t.Fatalf("connecting from %s: %v", from, err)
	}
	t.Cleanup(func() { c.Close() })
	p := &peer{from, s.received[from], new(atomic.Int64)}
	go io.Copy(counter{p.received}, c)
	go trickle(c)
	return p
}

// counter is a writer that counts.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// expectFlow watches whether data goes both ways, or neither. It waits long
// for data that is to come.
func (p *peer) expectFlow(t *testing.T, flows bool) {
	t.Helper()
	sent, received := p.sent.Load(), p.received.Load()
	up, down := false, false
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline) && !(up && down); {
		time.Sleep(10 * time.Millisecond)
		up, down = p.sent.Load() > sent, p.received.Load() > received
		if !flows && time.Until(deadline) < 2500*time.Millisecond {
			break
		}
	}
	if up != flows || down != flows {
		t.Errorf("connection from %s: data goes to the host: %t, from it: %t; want %t both ways", p.from, up, down, flows)
	}
}
