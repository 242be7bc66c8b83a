package packettest

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/cfwall/cfwall/internal/lab"
)

// ephemeral is a port from which hosts open connections of their own.
const ephemeral = 40443

func TestOwnConnectionsComeBack(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Client.ListenTCP(":80", ":443", ":8080")
	s.Client.ListenUDP(":443")
	w := defaults()
	w.policy.TCP = ports(80, 443, ephemeral)
	enforce(t, s.Web, w)
	for _, server := range []netip.Addr{lab.Client4, lab.Client6, stranger4, stranger6, edge4, edge6} {
		for _, port := range []uint16{80, 443} {
			expect(t, s.Web, lab.Probe{Network: "tcp", To: netip.AddrPortFrom(server, port), Admit: true})
		}
		expect(t, s.Web, lab.Probe{Network: "udp", To: netip.AddrPortFrom(server, 443), Admit: true})
		if err := talk(s.Web, web(server, ephemeral), netip.AddrPortFrom(server, 8080)); err != nil {
			t.Errorf("LOST own connection from the guarded port %d to %s: %v", ephemeral, server, err)
		}
	}
	s.Web.ListenTCP(":40443")
	expect(t, s.Client, calls("tcp", edges, true, ephemeral)...)
	expect(t, s.Client, calls("tcp", strangers, false, ephemeral)...)
}

// What is reserved is no port for connections of the host's own: there even UDP
// can be guarded, and TCP as strictly as anywhere.
func TestReservedPortsAreGuarded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Web.Sysctl("net/ipv4/ip_local_reserved_ports", "40443")
	s.Web.ListenTCP(":40443")
	s.Web.ListenUDP(":40443")
	w := withFriends()
	w.policy.TCP, w.policy.UDP = ports(ephemeral), ports(ephemeral)
	enforce(t, s.Web, w)
	expect(t, s.Client, slices.Concat(
		calls("tcp", edges, true, ephemeral), calls("udp", edges, false, ephemeral),
		calls("tcp", friends, true, ephemeral), calls("udp", friends, true, ephemeral),
		calls("tcp", strangers, false, ephemeral), calls("udp", strangers, false, ephemeral),
	)...)
}

// talk has a conversation with an echo service from a certain port.
func talk(h *lab.Host, from, to netip.AddrPort) error {
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Timeout: 3 * time.Second, Control: reuseAddress}
	var conn net.Conn
	var err error
	h.Do(func() { conn, err = dialer.Dial("tcp", to.String()) })
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := conn.Write([]byte("echo")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 4))
	return err
}

func TestPingAndNeighboursAreUntouched(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Web.ListenTCP(":443")
	enforce(t, s.Web, defaults())
	for _, from := range slices.Concat(everyone, []netip.Addr{lab.Client4, lab.Client6}) {
		forgetNeighbours(t, s.Client)
		forgetNeighbours(t, s.Web)
		if err := ping(s.Client, from, pick(from, lab.Web4, lab.Web6)); err != nil {
			t.Errorf("LOST ping from %s: %v", from, err)
		}
	}
	forgetNeighbours(t, s.Web)
	for _, to := range everyone {
		if err := ping(s.Web, pick(to, lab.Web4, lab.Web6), to); err != nil {
			t.Errorf("LOST the host's own ping to %s: %v", to, err)
		}
	}
	forgetNeighbours(t, s.Web)
	expect(t, s.Client, calls("tcp", edges, true, 443)...)
}

// forgetNeighbours empties the tables of ARP and IPv6 neighbour discovery.
func forgetNeighbours(t *testing.T, h *lab.Host) {
	t.Helper()
	var err error
	h.Do(func() {
		var neighbours []netlink.Neigh
		neighbours, err = netlink.NeighList(0, netlink.FAMILY_ALL)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			err = nil // those that come now are not old
		}
		for _, n := range neighbours {
			if n.HardwareAddr != nil && n.State&netlink.NUD_PERMANENT == 0 {
				err = errors.Join(err, netlink.NeighDel(&n))
			}
		}
	})
	if err != nil {
		t.Fatalf("%s: forgetting neighbours: %v", h, err)
	}
}

// ping sends an echo request and waits for the reply.
func ping(h *lab.Host, from, to netip.Addr) error {
	network, request, reply := "ip4:icmp", []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, byte(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", []byte{128, 0, 0, 0, 0, 0, 0, 0}, 129 // the kernel adds the checksum
	}
	var conn net.Conn
	var err error
	dialer := net.Dialer{LocalAddr: &net.IPAddr{IP: from.AsSlice()}}
	h.Do(func() { conn, err = dialer.Dial(network, to.String()) })
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := conn.Write(request); err != nil {
		return err
	}
	for answer := make([]byte, 128); ; {
		n, _, err := conn.(*net.IPConn).ReadFromIP(answer) // Read would leave the IPv4 header
		if err != nil || n > 0 && answer[0] == reply {
			return err
		}
	}
}
