package packettest

import (
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
)

// strangerUser is the number of a user that is not the one of this process.
const strangerUser = 4711

// as calls f as another user, to whom the sockets then belong that it opens. It
// reports false where this process may not: in a namespace of one user. The
// user of file systems is that of sockets too, and that of a thread alone.
func as(user int, f func()) bool {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own := os.Geteuid()
	defer unix.SetfsuidRetUid(own)
	if unix.SetfsuidRetUid(user); !isFsuid(user) {
		return false
	}
	f()
	return true
}

// isFsuid asks for a change that the kernel refuses: the answer is the user that is.
func isFsuid(user int) bool {
	now, _ := unix.SetfsuidRetUid(-1)
	return now == user
}

func TestOutboundLimitsTheTunnelToItsUser(t *testing.T) {
	own := os.Geteuid()
	tests := map[string]struct {
		limit, sender int
	}{
		"the user that runs this":          {own, own},
		"another user, but this one sends": {strangerUser, own},
		"another user, who sends":          {strangerUser, strangerUser},
		"this user, but another one sends": {own, strangerUser},
		"a user unknown to the host":       {-1, own},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newOutside(t, lab.Edge{})
			enforce(t, s.Web, limited(tt.limit))
			tunnel := slices.Concat(
				services("tcp", edgesOf["global"], 7844), services("udp", edgesOf["global"], 7844))
			others := slices.Concat(services("tcp", edges, 443), services("udp", []netip.Addr{stranger4, stranger6}, 123))
			did := as(tt.sender, func() {
				for _, to := range tunnel {
					err := dial(s.Web, to.network, to.to)
					if tt.limit == tt.sender && err != nil {
						t.Errorf("LOST %v: %v", to, err)
					}
					if tt.limit != tt.sender && !isRefusal(to.network, err) {
						t.Errorf("LEAKED or not refused at once: %v: %v", to, err)
					}
				}
				for _, to := range others {
					if err := dial(s.Web, to.network, to.to); err != nil {
						t.Errorf("LOST %v: %v", to, err)
					}
				}
			})
			if !did {
				t.Logf("no socket can belong to user %d here", tt.sender)
			}
		})
	}
}

// limited is outbound with the tunnel for one user alone; -1 stands for a name
// that the host does not know.
func limited(user int) wanted {
	w := strictly("global")
	w.policy.Tunnel.User = "cloudflared"
	facts := w.facts
	w.facts = func(h *firewall.Host) {
		facts(h)
		if user >= 0 {
			number := uint32(user)
			h.TunnelUser = &number
		}
	}
	return w
}

// The last packets of a connection belong to no socket, and so to no user.
func TestOutboundConnectionsOfTheUserEnd(t *testing.T) {
	t.Parallel()
	ends := map[string]func(*net.TCPConn){
		"closed here":                      func(c *net.TCPConn) { c.Close() },
		"closed here with data on its way": func(c *net.TCPConn) { c.Write(make([]byte, 64<<10)); c.Close() },
		"reset here":                       func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"closed there first":               func(c *net.TCPConn) { c.CloseWrite(); io.Copy(io.Discard, c); c.Close() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newOutside(t, lab.Edge{})
			enforce(t, s.Web, limited(os.Geteuid()))
			endConnections(t, s, end)
			if all := remembered(t, s.Web); len(all) != 0 {
				t.Errorf("LOST packets of ending connections: %v", all)
			}
		})
	}
	t.Run("the test notices", func(t *testing.T) {
		t.Parallel()
		s := newOutside(t, lab.Edge{})
		s.Web.Nft(t, `table inet foreign { chain out { type filter hook output priority 10; tcp dport 7844 tcp flags fin drop; }; }`)
		conns := connectEdges(t, s)
		for _, c := range conns {
			c.Close()
		}
		if unfinished(t, s.Web) == 0 {
			t.Error("no connection got stuck whose end was dropped")
		}
	})
}

func connectEdges(t *testing.T, s *lab.Site) (conns []*net.TCPConn) {
	t.Helper()
	for _, a := range slices.Repeat(edgesOf["global"], 5) {
		var c net.Conn
		var err error
		s.Web.Do(func() { c, err = net.DialTimeout("tcp", netip.AddrPortFrom(a, 7844).String(), 3*time.Second) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns = append(conns, c.(*net.TCPConn))
	}
	return conns
}

// endConnections waits until both hosts have forgotten all connections.
func endConnections(t *testing.T, s *lab.Site, end func(*net.TCPConn)) {
	t.Helper()
	for _, c := range connectEdges(t, s) {
		end(c)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		here, there := unfinished(t, s.Web), unfinished(t, s.Client)
		if here == 0 && there == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("STUCK: %d connections of the tunnel at this end, %d at the other", here, there)
		}
	}
}

// unfinished counts the connections to port 7844 in a state that waits for a
// packet: not TIME_WAIT (6) and not LISTEN (A), as /proc/net/tcp has them.
func unfinished(t *testing.T, h *lab.Host) (n int) {
	t.Helper()
	h.Do(func() {
		for _, file := range []string{"tcp", "tcp6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				t.Errorf("reading connections: %v", err)
			}
			for line := range strings.Lines(string(b)) {
				f := strings.Fields(line)
				tunnel := strings.HasSuffix(f[1], ":1EA4") || strings.HasSuffix(f[2], ":1EA4")
				if tunnel && f[3] != "06" && f[3] != "0A" {
					n++
				}
			}
		}
	})
	return n
}
