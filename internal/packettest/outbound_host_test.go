package packettest

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
)

func closedOutbound(w wanted) wanted {
	w.policy.Outbound.Drop = true
	return w
}

func TestOutboundLeavesTheRestAlone(t *testing.T) {
	for name, test := range untouched {
		t.Run(name, func(t *testing.T) { test(t, closedOutbound) })
	}
}

// The web host answers whoever asks it, and hears at once where nobody is.
func TestOutboundAnswers(t *testing.T) {
	t.Parallel()
	s := newOutside(t, lab.Edge{})
	s.Web.ListenTCP(":22", ":2222")
	s.Web.ListenUDP(":53", ":51820")
	enforce(t, s.Web, outbound())
	callers := slices.Concat(everyone, []netip.Addr{lab.Client4, lab.Client6})
	expect(t, s.Client, slices.Concat(
		calls("tcp", callers, true, 22, 2222), calls("udp", callers, true, 53, 51820))...)
	for _, from := range callers {
		for _, network := range []string{"tcp", "udp"} {
			err := s.Client.Dial(network, from, web(from, 4444), 3*time.Second)
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("LOST the refusal of a closed %s port to %s: %v", network, from, err)
			}
		}
		if err := ping(s.Client, from, pick(from, lab.Web4, lab.Web6)); err != nil {
			t.Errorf("LOST the answer to a ping from %s: %v", from, err)
		}
	}
	if all := remembered(t, s.Web); len(all) != 0 {
		t.Errorf("LOST answers: %v", all)
	}
}

// SSH: connections that came in before the host tracked any, and on which the
// host speaks first when the policy has come.
func TestOutboundKeepsOlderConnections(t *testing.T) {
	tests := map[string]func(wanted) wanted{
		"at once":                 closedOutbound,
		"with closed ports":       func(w wanted) wanted { return closedInboundFor22(closedOutbound(w)) },
		"with a user":             func(w wanted) wanted { w.policy.Tunnel.User = "nobody"; return closedOutbound(w) },
		"in mode tunnel at once":  func(w wanted) wanted { return tunnelled(closedOutbound(w)) },
		"with ports closed first": func(w wanted) wanted { return closedInboundFor22(tunnelled(closedOutbound(w))) },
	}
	for name, bend := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newOutside(t, lab.Edge{})
			accepted := acceptor(t, s.Web, ":22")
			var pairs [][2]net.Conn
			for _, from := range slices.Concat(strangers, friends) {
				pairs = append(pairs, [2]net.Conn{open(t, s.Client, from, web(from, 22)), <-accepted})
			}
			enforce(t, s.Web, bend(defaults()))
			for _, p := range pairs {
				for range 3 {
					expectSaid(t, "the host", p[1], p[0])
					expectSaid(t, "the client", p[0], p[1])
				}
				if err := errors.Join(p[1].Close(), p[0].SetReadDeadline(time.Now().Add(3*time.Second))); err != nil {
					t.Error(err)
				}
				if _, err := p[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("LOST the end of a connection: %v", err)
				}
			}
			if all := remembered(t, s.Web); len(all) != 0 {
				t.Errorf("LOST packets of older connections: %v", all)
			}
		})
	}
}

func closedInboundFor22(w wanted) wanted {
	w.policy.Inbound.Drop = true
	w.policy.Inbound.Open = append(w.policy.Inbound.Open, openService("tcp", 22))
	return w
}

// acceptor hands over the connections that come in at a port.
func acceptor(t *testing.T, h *lab.Host, address string) <-chan net.Conn {
	t.Helper()
	var l net.Listener
	var err error
	h.Do(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	conns := make(chan net.Conn)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed by the cleanup
			}
			t.Cleanup(func() { c.Close() })
			conns <- c
		}
	}()
	return conns
}

func open(t *testing.T, h *lab.Host, from netip.Addr, to netip.AddrPort) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: 3 * time.Second}
	var c net.Conn
	var err error
	h.Do(func() { c, err = dialer.Dial("tcp", to.String()) })
	if err != nil {
		t.Fatalf("connecting from %s: %v", from, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func expectSaid(t *testing.T, who string, from, to net.Conn) {
	t.Helper()
	const word = "prompt"
	heard := make([]byte, len(word))
	_, err := io.WriteString(from, word)
	to.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, errRead := io.ReadFull(to, heard); err != nil || errRead != nil || string(heard) != word {
		t.Errorf("LOST what %s said to %s: %q, %v, %v", who, to.LocalAddr(), heard, err, errRead)
	}
}

// What every host needs leaves under the policy, by either family.
func TestOutboundLetsHostsLive(t *testing.T) {
	t.Parallel()
	s := newOutside(t, lab.Edge{})
	s.Web.ListenTCP(":8080")
	enforce(t, s.Web, outbound())

	for _, to := range slices.Concat(services("udp", slices.Concat(strangers, edges), 123), services("tcp", []netip.Addr{resolver4, resolver6}, 53, 853)) {
		if to.to.Port() == 123 {
			expect(t, s.Web, lab.Probe{Network: to.network, To: to.to, Admit: true})
		} else if c := open(t, s.Web, pick(to.to.Addr(), lab.Web4, lab.Web6), to.to); c != nil {
			c.Close()
		}
	}
	for _, at := range []string{"127.0.0.1", "::1", lab.Web4.String(), lab.Web6.String()} {
		expect(t, s.Web, lab.Probe{Network: "tcp", To: netip.AddrPortFrom(netip.MustParseAddr(at), 8080), Admit: true})
	}
	for _, to := range slices.Concat(strangers, edges, []netip.Addr{lab.Client4, lab.Client6}) {
		forgetNeighbours(t, s.Web)
		if err := ping(s.Web, pick(to, lab.Web4, lab.Web6), to); err != nil {
			t.Errorf("LOST the host's ping to %s, whose neighbour it had to find: %v", to, err)
		}
		forgetNeighbours(t, s.Client)
		if err := ping(s.Client, to, pick(to, lab.Web4, lab.Web6)); err != nil {
			t.Errorf("LOST a ping from %s, who had to find the host: %v", to, err)
		}
	}
	expectNoRefusal(t, s.Web)
}

func expectNoRefusal(t *testing.T, h *lab.Host) {
	t.Helper()
	counters := readCounters(t, h)
	if counters["rejected_outbound4"] != 0 || counters["rejected_outbound6"] != 0 {
		t.Errorf("LOST packets of this host: %v, to %v", counters, remembered(t, h))
	}
}

// DHCP: a request to all from a host that has no lease, a renewal, and IPv6's
// to the group of its servers; and not the same ports the other way round.
func TestOutboundLetsDHCPOut(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		from, to string
		passes   bool
	}{
		{"request", "0.0.0.0:68", "255.255.255.255:67", true},
		{"renewal", "192.0.2.2:68", "192.0.2.1:67", true},
		{"DHCPv6", "[::]:546", "[ff02::1:2%eth0]:547", true},
		{"DHCPv6 renewal", "[2001:db8::2]:546", "[2001:db8::1]:547", true},
		{"a server's ports", "192.0.2.2:67", "192.0.2.1:68", false},
		{"a server's ports of IPv6", "[2001:db8::2]:547", "[2001:db8::1]:546", false},
		{"another port to DHCP", "192.0.2.2:1068", "192.0.2.1:67", false},
		{"IPv6's ports in IPv4", "192.0.2.2:546", "192.0.2.1:547", false},
		{"IPv4's ports in IPv6", "[2001:db8::2]:68", "[2001:db8::1]:67", false},
	}
	s := newOutside(t, lab.Edge{})
	enforce(t, s.Web, outbound())
	for _, tt := range tests {
		to := netip.MustParseAddrPort(tt.to)
		seen := s.Client.CountArrivals(t, "udp", to.Port())
		if err := sendFrom(s.Web, tt.from, to); (err == nil) != tt.passes {
			t.Errorf("%s: sending: %v, want it to pass: %t", tt.name, err, tt.passes)
		}
		want := map[bool]int{true: 1}[tt.passes]
		n := 0
		for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if n, _ = seen.Read(t); n >= want {
				break
			}
		}
		if n != want {
			t.Errorf("%s: %d datagrams came, want %d", tt.name, n, want)
		}
	}
}

func sendFrom(h *lab.Host, from string, to netip.AddrPort) error {
	local, err := net.ResolveUDPAddr("udp", from)
	if err != nil {
		return err
	}
	network := "udp4"
	if to.Addr().Is6() {
		network = "udp6"
	}
	var conn *net.UDPConn
	h.Do(func() { conn, err = net.ListenUDP(network, local) })
	if err != nil {
		return err
	}
	defer conn.Close()
	h.Do(func() { _, err = conn.WriteToUDPAddrPort([]byte("dhcp"), to) })
	return err
}

// To the containers of the host all is open, and theirs leave as they like.
func TestOutboundOfContainers(t *testing.T) {
	t.Parallel()
	s := newOutside(t, lab.Edge{})
	container := s.Container()
	container.ListenTCP(":5432")
	container.ListenUDP(":5432")
	s.Web.Nft(t, publish)
	enforce(t, s.Web, outbound())
	for _, network := range []string{"tcp", "udp"} {
		for _, a := range []netip.Addr{lab.Container4, lab.Container6} {
			expect(t, s.Web, lab.Probe{Network: network, To: netip.AddrPortFrom(a, 5432), Admit: true})
		}
	}
	for _, to := range slices.Concat(
		services("tcp", strangers, 22, 25, 80, 443, 7844), services("udp", strangers, 123, 443, 4500, 7844),
		services("tcp", edges, 7844), services("udp", edges, 7844)) {
		expect(t, container, lab.Probe{Network: to.network, To: to.to, Admit: true})
	}
	expectNoRefusal(t, s.Web)

	w := outbound()
	w.policy.ContainerBridges = false
	enforce(t, s.Web, w)
	for _, a := range []netip.Addr{lab.Container4, lab.Container6} {
		if err := dial(s.Web, "tcp", netip.AddrPortFrom(a, 5432)); !isRefusal("tcp", err) {
			t.Errorf("LEAKED to a container behind a bridge that is not trusted: %v", err)
		}
	}
}

// A program hears of a refused datagram twice: from the call that sends, and
// by the ICMP error that the socket keeps for the next call.
func TestOutboundTellsProgramsOfDatagrams(t *testing.T) {
	t.Parallel()
	s := newOutside(t, lab.Edge{})
	enforce(t, s.Web, outbound())
	prohibited := map[netip.Addr]error{stranger4: syscall.EHOSTUNREACH, stranger6: syscall.EACCES}
	for to, want := range prohibited {
		var conn net.Conn
		var err error
		s.Web.Do(func() { conn, err = net.Dial("udp", netip.AddrPortFrom(to, 443).String()) })
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err := conn.Write([]byte("hello")); !errors.Is(err, syscall.EPERM) {
			t.Errorf("sending to %s: %v, want %v", to, err, syscall.EPERM)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, want) {
			t.Errorf("listening to %s: %v, want %v", to, err, want)
		}
	}
}

func openService(protocol string, port uint16) firewall.Service {
	return firewall.Service{Protocol: protocol, Ports: firewall.PortRange{First: port, Last: port}}
}
