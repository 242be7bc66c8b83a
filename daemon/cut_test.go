package daemon

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/sshd"
)

// A conversation is a connection of the web host, from both ends.
type conversation struct {
	name              string
	dialled, accepted *net.TCPConn
	cut               Cut // that it would belong to
}

// exchange reports whether both ends hear each other.
func (c conversation) exchange() error {
	for _, way := range [][2]*net.TCPConn{{c.dialled, c.accepted}, {c.accepted, c.dialled}} {
		if err := errors.Join(way[0].SetDeadline(time.Now().Add(3*time.Second)), way[1].SetDeadline(time.Now().Add(3*time.Second))); err != nil {
			return err
		}
		if _, err := way[0].Write([]byte("x")); err != nil {
			return err
		}
		if _, err := io.ReadFull(way[1], make([]byte, 1)); err != nil {
			return err
		}
	}
	return nil
}

// ended reports whether both ends hear within 1 s that it is over.
func (c conversation) ended(t *testing.T) bool {
	t.Helper()
	for _, end := range []*net.TCPConn{c.dialled, c.accepted} {
		if err := end.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return false
		}
		_, err := end.Read(make([]byte, 1))
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
	}
	return true
}

// A scene is a web host that serves, and is a client of others.
type scene struct {
	*lab.Site
	listeners map[string]net.Listener // by host and port
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{newSite(t), make(map[string]net.Listener)}
	startServer(t, s.Web, "sshd", "tcp=:22")
	for h, ports := range map[*lab.Host][]string{s.Web: {"443", "5432", "40443"}, s.Client: {"25", "443", "7844", "8080"}} {
		for _, port := range ports {
			var l net.Listener
			var err error
			h.Do(func() { l, err = net.Listen("tcp", ":"+port) })
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			s.listeners[h.String()+port] = l
		}
	}
	return s
}

// converse makes conversations, one of each family: "stranger 443" comes in,
// "to friend 25" goes out, and "self 443" stays in the host.
func (s *scene) converse(t *testing.T, what string) []conversation {
	t.Helper()
	words := strings.Fields(what)
	port, err := strconv.ParseUint(words[len(words)-1], 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	var all []conversation
	talk := func(from, to *lab.Host, source, target netip.Addr) {
		dialled := dial(t, from, source, netip.AddrPortFrom(target, uint16(port)).String())
		accepted, err := s.listeners[to.String()+words[len(words)-1]].Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { accepted.Close() })
		all = append(all, conversation{what + " of " + target.String(), dialled, accepted.(*net.TCPConn), Cut{Port: uint16(port), Outgoing: from == s.Web}})
	}
	for i, at := range [][2]netip.Addr{{lab.Web4, netip.MustParseAddr("10.8.0.1")}, {lab.Web6, netip.MustParseAddr("fd00:8::1")}} {
		switch words[0] {
		case "to":
			talk(s.Web, s.Client, netip.Addr{}, callers[words[1]][i])
		case "self":
			talk(s.Web, s.Web, netip.Addr{}, at[0])
			talk(s.Web, s.Web, netip.Addr{}, []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}[i])
		case "vpn":
			talk(s.Client, s.Web, callers["vpn"][i], at[1])
		default:
			talk(s.Client, s.Web, callers[words[0]][i], at[0])
		}
	}
	return all
}

func (s *scene) converseAll(t *testing.T, list string) []conversation {
	t.Helper()
	var all []conversation
	for what := range strings.SplitSeq(list, ", ") {
		if what != "" {
			all = append(all, s.converse(t, what)...)
		}
	}
	return all
}

const (
	everywhereOut = "to friend 25, to stranger 8080, to edge 443, to tunnel 7844"
	notAsked      = "[tunnel]\nready = \"off\"\n"
)

var (
	friends = []string{"203.0.113.0/24", "2001:db8:f::/48"}
	// usual is a config that admits friends and a VPN.
	usual = wish{from: friends, interfaces: []string{"wg0"}, open: []string{"22/tcp"}, more: notAsked}
)

// with is a config that differs from the usual one.
func with(change func(*wish)) wish {
	w := usual
	change(&w)
	return w
}

// What a change no longer admits ends at once, at both ends; nothing else does.
func TestCut(t *testing.T) {
	for _, c := range []struct {
		name        string
		before      *wish // nil: there is no table
		after       wish
		ends, stays string
	}{
		{"to mode tunnel", &usual, with(func(w *wish) { w.tunnel = true }),
			"edge 443", "friend 443, vpn 443, self 443, edge 5432, stranger 5432, " + everywhereOut},
		{"to inbound drop", &usual, with(func(w *wish) { w.drop = true }),
			"edge 5432, stranger 5432, friend 5432", "edge 443, friend 443, vpn 5432, self 5432, " + everywhereOut},
		{"to inbound drop, but for friends", &usual, with(func(w *wish) {
			w.drop, w.open = true, []string{"22/tcp", "5432/tcp from " + strings.Join(friends, ",")}
		}), "edge 5432, stranger 5432", "edge 443, friend 5432, vpn 5432, self 5432, " + everywhereOut},
		{"to outbound drop", &usual, with(func(w *wish) { w.outboundDrop = true }),
			"to friend 25, to stranger 8080", "edge 443, friend 443, stranger 5432, vpn 443, self 443, to edge 443, to tunnel 7844, to vpn 25"},
		{"to outbound drop, but for mail", &usual, with(func(w *wish) {
			w.outboundDrop, w.allow = true, []string{"25/tcp to " + strings.Join(friends, ",")}
		}), "to stranger 8080", "edge 443, to friend 25, to edge 443, to tunnel 7844"},
		{"the tunnel is for another user alone", &usual, with(func(w *wish) {
			w.outboundDrop, w.more = true, notAsked+"user = \"998\"\n"
		}), "to tunnel 7844, to friend 25", "stranger 5432, to edge 443"},
		{"all at once", &usual, with(func(w *wish) { w.tunnel, w.drop, w.outboundDrop = true, true, true }),
			"edge 443, edge 5432, stranger 5432, to friend 25, to stranger 8080", "friend 443, vpn 443, vpn 5432, self 443, self 5432, to edge 443, to tunnel 7844"},
		{"the first table", nil, usual,
			"stranger 443", "edge 443, friend 443, vpn 443, self 443, stranger 5432, " + everywhereOut},
		{"the first table, in mode tunnel", nil, with(func(w *wish) { w.tunnel, w.drop = true, true }),
			"stranger 443, edge 443, stranger 5432", "friend 443, vpn 443, self 443, " + everywhereOut},
		{"a port of this host's own connections", &usual, with(func(w *wish) { w.ports = []string{"443", "40443"} }),
			"stranger 40443", "edge 40443, friend 40443, vpn 40443, self 40443, stranger 5432, " + everywhereOut},
		{"friends no longer", &usual, with(func(w *wish) { w.from = nil }),
			"friend 443", "edge 443, vpn 443, stranger 5432, friend 5432, self 443, " + everywhereOut},
		{"no VPN any more", &usual, with(func(w *wish) { w.interfaces, w.tunnel = nil, true }),
			"vpn 443, edge 443", "friend 443, vpn 5432, self 443, " + everywhereOut},
		{"back to less", new(with(func(w *wish) { w.tunnel, w.drop = true, true })), usual,
			"", "friend 443, vpn 443, vpn 5432, self 443, " + everywhereOut},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			e := newLabEngine(t, c.after)
			if c.before != nil {
				if _, err := applyIn(t, s.Web, e, *c.before, Order{}); err != nil {
					t.Fatal(err)
				}
			}
			session := dial(t, s.Client, callers["stranger"][0], "192.0.2.2:22")
			ends, stays := s.converseAll(t, c.ends), s.converseAll(t, c.stays)
			writeFile(t, e.paths.Config, c.after.text())
			var plan PlanReport
			var err error
			s.Web.Do(func() { plan, err = e.Plan(t.Context(), Order{}) })
			if want := cutsOf(ends); err != nil || !slices.Equal(plan.Cuts, want) {
				t.Errorf("the plan says %+v, %v; want %+v", plan.Cuts, err, want)
			}
			r, err := applyIn(t, s.Web, e, c.after, Order{})
			if err != nil || r.Cut != len(ends) {
				t.Errorf("%d connections are cut, want %d (%v)", r.Cut, len(ends), err)
			}
			for _, c := range ends {
				if !c.ended(t) {
					t.Errorf("%s has not ended", c.name)
				}
			}
			for _, c := range stays {
				if err := c.exchange(); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
			}
			if err := echoes(session); err != nil {
				t.Errorf("the SSH session: %v", err)
			}
		})
	}
}

func cutsOf(all []conversation) []Cut {
	counts := make(map[Cut]int)
	for _, c := range all {
		counts[c.cut]++
	}
	return sortedCuts(counts)
}

// A kernel without SOCK_DESTROY still enforces: what is no longer admitted is
// no longer heard.
func TestCutWithoutSupport(t *testing.T) {
	s := newScene(t)
	e := newLabEngine(t, usual)
	tried := 0
	e.destroy = func(kernel.Connection) error { tried++; return kernel.ErrUnsupported }
	if _, err := applyIn(t, s.Web, e, usual, Order{}); err != nil {
		t.Fatal(err)
	}
	ends, stays := s.converseAll(t, "edge 443"), s.converseAll(t, "friend 443, stranger 5432")
	r, err := applyIn(t, s.Web, e, with(func(w *wish) { w.tunnel = true }), Order{})
	if err != nil || !r.Changed || r.Cut != 0 || tried != 1 {
		t.Errorf("changed %t, %d connections are cut by %d tries, %v", r.Changed, r.Cut, tried, err)
	}
	for _, c := range ends {
		if _, err := c.dialled.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := c.accepted.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.accepted.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, c := range stays {
		if err := c.exchange(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Where connections cannot be listed, the table changes all the same.
func TestCutOfWhatIsNotKnown(t *testing.T) {
	e, table, _ := newTestEngine(t)
	e.table = modeTable{table}
	e.connections = func() ([]kernel.Connection, error) { return nil, kernel.ErrUnsupported }
	r, err := e.Pass(t.Context())
	if err != nil || !r.Changed || r.Cut != 0 || table.admits("198.51.100.7", 443) {
		t.Errorf("changed %t, %d connections are cut, %v", r.Changed, r.Cut, err)
	}
}

// A session lives on while its server does not listen: it restarts, or has
// moved to another port.
func TestCutSparesSessionsWithoutAServer(t *testing.T) {
	for name, w := range map[string]wish{
		"outbound drop": with(func(w *wish) { w.outboundDrop = true }),
		"inbound drop":  with(func(w *wish) { w.drop = true }),
		"all":           with(func(w *wish) { w.tunnel, w.drop, w.outboundDrop = true, true, true }),
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			e := newLabEngine(t, usual)
			if _, err := applyIn(t, s.Web, e, usual, Order{}); err != nil {
				t.Fatal(err)
			}
			w.open = []string{"22/tcp", "5432/tcp"}
			for _, c := range s.converse(t, "stranger 5432") {
				own := sshd.Session{Local: addrPort(c.accepted.LocalAddr()), Remote: addrPort(c.accepted.RemoteAddr())}
				s.listeners["web5432"].Close()
				if r, err := applyIn(t, s.Web, e, w, Order{Session: own}); err != nil || r.Cut != 0 {
					t.Errorf("%d connections are cut, %v", r.Cut, err)
				}
				if err := c.exchange(); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
			}
		})
	}
}

// Some clients choose a port that others do not get by chance, as NFS does.
// Closing the way in is not about their connections.
func TestCutSparesClientsFromReservedPorts(t *testing.T) {
	s := newScene(t)
	e := newLabEngine(t, usual)
	if _, err := applyIn(t, s.Web, e, usual, Order{}); err != nil {
		t.Fatal(err)
	}
	var dialled net.Conn
	var err error
	s.Web.Do(func() {
		dialer := net.Dialer{Timeout: 3 * time.Second, LocalAddr: &net.TCPAddr{Port: 700}}
		dialled, err = dialer.Dial("tcp", "203.0.113.7:8080")
	})
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	accepted, err := s.listeners["client8080"].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if r, err := applyIn(t, s.Web, e, with(func(w *wish) { w.tunnel, w.drop = true, true }), Order{}); err != nil || r.Cut != 0 {
		t.Errorf("%d connections are cut, %v", r.Cut, err)
	}
	c := conversation{dialled: dialled.(*net.TCPConn), accepted: accepted.(*net.TCPConn)}
	if err := c.exchange(); err != nil {
		t.Error(err)
	}
}

// The end of a temporary entry, and of `cfwall off`, ends what they let in.
func TestCutOfWhoWasLetInForATime(t *testing.T) {
	for name, c := range map[string]struct {
		open, close func(*testing.T, *Engine) error
	}{
		"allow": {
			func(t *testing.T, e *Engine) error {
				_, err := e.Allow(t.Context(), netip.MustParsePrefix("198.51.100.7/32"), time.Hour)
				_, err6 := e.Allow(t.Context(), netip.MustParsePrefix("2001:db8:bad::/48"), time.Hour)
				return errors.Join(err, err6)
			},
			func(t *testing.T, e *Engine) error {
				return errors.Join(e.Disallow(t.Context(), netip.MustParsePrefix("198.51.100.7/32")), e.Disallow(t.Context(), netip.MustParsePrefix("2001:db8:bad::/48")))
			},
		},
		"off": {
			func(t *testing.T, e *Engine) error { _, err := e.Off(t.Context(), 0); return err },
			func(t *testing.T, e *Engine) error { _, err := e.On(t.Context()); return err },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			e := newLabEngine(t, usual)
			_, err := applyIn(t, s.Web, e, usual, Order{})
			s.Web.Do(func() { err = errors.Join(err, c.open(t, e)) })
			if err != nil {
				t.Fatal(err)
			}
			ends, stays := s.converse(t, "stranger 443"), s.converse(t, "edge 443")
			s.Web.Do(func() { err = c.close(t, e) })
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range ends {
				if !c.ended(t) {
					t.Errorf("%s has not ended", c.name)
				}
			}
			for _, c := range stays {
				if err := c.exchange(); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
			}
		})
	}
}

// However many connections there are to close, and however long it takes to find
// them, the loop is free again soon, and all are closed in the end.
func TestCutOfManyConnections(t *testing.T) {
	e, _, _ := newAuditEngine(t)
	live := make([]kernel.Connection, 2000)
	for i := range live {
		live[i] = kernel.Connection{Local: netip.MustParseAddrPort("192.0.2.2:40000"), Remote: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), uint16(10_000+i))}
	}
	e.connections = func() ([]kernel.Connection, error) { return live, nil }
	e.destroy = func(kernel.Connection) error {
		time.Sleep(500 * time.Microsecond)
		live = live[1:]
		return nil
	}
	writeFile(t, e.paths.Config, "[outbound]\npolicy = \"drop\"\n")
	began := time.Now()
	r, err := e.Apply(t.Context(), Order{Force: true})
	if err != nil || r.Cut != 2000 || len(live) != 0 || e.ending.due {
		t.Fatalf("%d connections are cut, %d left after %v (%v)", r.Cut, len(live), time.Since(began), err)
	}
	live = slices.Repeat([]kernel.Connection{{Local: netip.MustParseAddrPort("192.0.2.2:40000"), Remote: netip.MustParseAddrPort("203.0.113.9:25")}}, 2000)
	before := *e.verified
	before.Chains = nil
	e.ending.next(&before, *e.verified)
	began = time.Now()
	if closed := e.cut(t.Context()); closed == 0 || !e.ending.due || time.Since(began) > longestCut/2 {
		t.Errorf("%d connections are cut in %v, and it goes on: %t", closed, time.Since(began), e.ending.due)
	}
}
