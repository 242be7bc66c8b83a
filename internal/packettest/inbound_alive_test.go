package packettest

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cfwall/cfwall/internal/lab"
)

// A line is an open connection of the web host.
type line struct{ here, there net.Conn }

// A switchboard connects to ports of a host, one caller after the other.
type switchboard map[uint16]net.Listener

func newSwitchboard(t *testing.T, h *lab.Host, ports ...uint16) switchboard {
	t.Helper()
	b := make(switchboard)
	for _, p := range ports {
		var err error
		h.Do(func() { b[p], err = net.Listen("tcp", fmt.Sprintf(":%d", p)) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b[p].Close() })
	}
	return b
}

// connect returns both ends of a new connection.
func (b switchboard) connect(t *testing.T, caller *lab.Host, from netip.Addr, to netip.AddrPort) (called, answered net.Conn) {
	t.Helper()
	called, err := dialTCP(caller, netip.AddrPortFrom(from, 0), to, patient)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { called.Close() })
	if answered, err = b[to.Port()].Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answered.Close() })
	return called, answered
}

// carries says a word at one end and reports whether it is heard at the other.
// It waits long for a word that should be.
func carries(from, to net.Conn, should bool) bool {
	to.SetReadDeadline(time.Now().Add(patience(should))) // TCP says it again after 200 ms
	if _, err := from.Write([]byte("w")); err != nil {
		return false
	}
	_, err := to.Read(make([]byte, 1))
	return err == nil
}

// Connections that are open when the policy comes are judged as new ones would
// be, also where nobody tracked connections before. Not among them is one that
// nobody tracked and on which the host speaks first: to the kernel it then looks
// like the host's own, and only closing its socket ends it.
func TestInboundOpenConnections(t *testing.T) {
	for _, tracks := range []bool{false, true} {
		t.Run(fmt.Sprintf("tracking %t", tracks), func(t *testing.T) {
			t.Parallel()
			testOpenConnections(t, tracks)
		})
	}
}

func testOpenConnections(t *testing.T, tracks bool) {
	s := newSite(t)
	if tracks {
		track(t, s.Web)
	}
	lines := openLines(t, s)
	enforce(t, s.Web, configured(t, inboundConfig))
	for _, l := range lines {
		first, second := l.line.there, l.line.here
		if l.hostFirst {
			first, second = second, first
		}
		if got := carries(first, second, l.lives); got != l.lives {
			t.Errorf("connection %s: lives on %t, want %t", l.name, got, l.lives)
		} else if got && !carries(second, first, true) {
			t.Errorf("connection %s: the other way nothing comes", l.name)
		}
	}
	for _, l := range lines {
		if l.lives && !carries(l.line.there, l.line.here, true) {
			t.Errorf("connection %s: ended later on", l.name)
		}
	}
}

// A judged line is one of which inboundConfig decides whether it lives on.
type judgedLine struct {
	line
	name      string
	lives     bool
	hostFirst bool // the host is the first who says something
}

func openLines(t *testing.T, s *lab.Site) []judgedLine {
	t.Helper()
	var lines []judgedLine
	inside, outside := newSwitchboard(t, s.Web, 22, 25, 443, 9000), newSwitchboard(t, s.Client, 7844)
	for i := range strangers {
		in := func(name string, from netip.Addr, port uint16, lives, hostFirst bool) {
			client, host := inside.connect(t, s.Client, from, web(from, port))
			lines = append(lines, judgedLine{line{host, client}, name, lives, hostFirst})
		}
		in("SSH", strangers[i], 22, true, false)
		in("SSH, the host speaking first", strangers[i], 22, true, true)
		in("to a port that is not open", strangers[i], 9000, false, false)
		in("of the edge to a port that is not open", edges[i], 9000, false, false)
		in("of a stranger to the members' port", strangers[i], 25, false, false)
		in("of a member", friends[i], 25, true, false)
		in("of the edge to a guarded port", edges[i], 443, true, false)
		in("of a stranger to a guarded port", strangers[i], 443, false, false)
		for _, hostFirst := range []bool{false, true} {
			host, server := outside.connect(t, s.Web, pick(edges[i], lab.Web4, lab.Web6), netip.AddrPortFrom(edges[i], 7844))
			name := fmt.Sprintf("of the host, it speaking first: %t", hostFirst)
			lines = append(lines, judgedLine{line{host, server}, name, true, hostFirst})
		}
	}
	return lines
}

// What goes both ways all the time stops as well, where connections are tracked.
func TestInboundCutsStreams(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	track(t, s.Web)
	open, closed := stream(t, s.Web, ":22"), stream(t, s.Web, ":9000")
	var living, dying []*peer
	for _, from := range everyone {
		living = append(living, connect(t, s.Client, from, web(from, 22), open))
		dying = append(dying, connect(t, s.Client, from, web(from, 9000), closed))
	}
	for _, p := range append(living, dying...) {
		p.expectFlow(t, true)
	}
	enforce(t, s.Web, configured(t, inboundConfig))
	time.Sleep(time.Second) // what is under way may still come
	for _, p := range living {
		p.expectFlow(t, true)
	}
	for _, p := range dying {
		p.expectFlow(t, false)
	}
}

// An answer to a datagram that nobody tracked cannot be told from a question:
// it comes in again once the host has said something. Mode tunnel tracks what
// goes to port 7844, and so the tunnel lives on as it is.
func TestInboundOlderDatagrams(t *testing.T) {
	tests := map[string]struct {
		before func(*testing.T, *lab.Host)
		known  bool
	}{
		"where nobody tracks": {func(*testing.T, *lab.Host) {}, false},
		"where others track":  {track, true},
		"in mode tunnel":      {func(t *testing.T, web *lab.Host) { enforce(t, web, tunnelled(defaults())) }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			tt.before(t, s.Web)
			var lines []line
			for _, edge := range edges {
				lines = append(lines, datagramLine(t, s, netip.AddrPortFrom(edge, 7844)))
			}
			enforce(t, s.Web, tunnelled(closedInbound(defaults())))
			for i, l := range lines {
				if got := carries(l.there, l.here, tt.known); got != tt.known {
					t.Errorf("the edge %s speaks first: heard %t, want %t", edges[i], got, tt.known)
				}
				if !carries(l.here, l.there, true) || !carries(l.there, l.here, true) {
					t.Errorf("LOST the answer of the edge %s", edges[i])
				}
			}
		})
	}
}

// linePort is the host's port on datagram lines.
const linePort = 50000

// datagramLine is a pair of UDP sockets that have spoken to each other.
func datagramLine(t *testing.T, s *lab.Site, to netip.AddrPort) line {
	t.Helper()
	dial := func(h *lab.Host, from, to netip.AddrPort) (c net.Conn) {
		var err error
		h.Do(func() { c, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to)) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	from := web(to.Addr(), linePort)
	l := line{here: dial(s.Web, from, to), there: dial(s.Client, to, from)}
	if !carries(l.here, l.there, true) || !carries(l.there, l.here, true) {
		t.Fatalf("no conversation with %s", to)
	}
	return l
}
