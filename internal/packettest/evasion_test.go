package packettest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
)

// A ground is a kind of host on which every disguise is tried.
type ground struct {
	name   string
	traits []trait
	// build makes the site and says on which link the web host's addresses
	// are, and which host serves.
	build   func(t *testing.T) (s *lab.Site, link string, server *lab.Host)
	facts   func(*firewall.Host)
	ports   []uint16 // guarded ports, as the client knows them
	reaches func(disguise) bool
}

var grounds = []ground{
	{
		name:  "plain host",
		build: plainHost,
		facts: func(h *firewall.Host) { h.Forwards = false },
		ports: []uint16{443, ephemeral},
	},
	{
		name: "host that tracks connections", // and so puts fragments together before most rules see them
		build: func(t *testing.T) (*lab.Site, string, *lab.Host) {
			s, link, server := plainHost(t)
			track(t, s.Web)
			return s, link, server
		},
		traits: []trait{tracking},
		facts:  func(h *firewall.Host) { h.Forwards = false },
		ports:  []uint16{443, ephemeral},
	},
	{
		name: "router",
		build: func(t *testing.T) (*lab.Site, string, *lab.Host) {
			s, link, server := plainHost(t)
			s.Web.Sysctl("net/ipv4/ip_forward", "1")
			s.Web.Sysctl("net/ipv6/conf/all/forwarding", "1")
			return s, link, server
		},
		traits: []trait{forwards},
		facts:  func(*firewall.Host) {},
		ports:  []uint16{443, ephemeral},
	},
	{
		name:  "host with its uplink in a bridge",
		build: bridgedHost,
		facts: func(*firewall.Host) {},
		ports: []uint16{443, ephemeral},
	},
	{
		name: "host with its uplink in a bridge that tracks connections",
		build: func(t *testing.T) (*lab.Site, string, *lab.Host) {
			s, link, server := bridgedHost(t)
			track(t, s.Web)
			return s, link, server
		},
		facts: func(*firewall.Host) {},
		ports: []uint16{443, ephemeral},
	},
	{
		name: "container behind DNAT",
		build: func(t *testing.T) (*lab.Site, string, *lab.Host) {
			s, link, _ := plainHost(t)
			container := s.Container()
			believeAll(container, "eth0")
			s.Web.Nft(t, publish)
			return s, link, container
		},
		facts:   func(*firewall.Host) {},
		ports:   []uint16{8443},
		reaches: func(d disguise) bool { return !d.from.IsValid() && !d.to.IsValid() && d.mac == nil },
	},
}

func plainHost(t *testing.T) (*lab.Site, string, *lab.Host) {
	s := newSite(t)
	addresses(s.Web, "eth0")
	believeAll(s.Web, "eth0")
	return s, "eth0", s.Web
}

func bridgedHost(t *testing.T) (*lab.Site, string, *lab.Host) {
	lab.Kernel(t)
	n := lab.New(t)
	s := &lab.Site{Net: n, Client: n.Host("client"), Web: n.Host("web")}
	n.Connect(s.Client, "eth0", s.Web, "eth0")
	s.Web.Bridge("br0", "eth0")
	for _, p := range []netip.Prefix{netip.PrefixFrom(lab.Client4, 24), netip.PrefixFrom(lab.Client6, 64)} {
		s.Client.Addr("eth0", p)
		s.Web.Addr("br0", netip.PrefixFrom(web(p.Addr(), 0).Addr(), p.Bits()))
		s.Web.Route(netip.PrefixFrom(pick(p.Addr(), netip.IPv4Unspecified(), netip.IPv6Unspecified()), 0), p.Addr(), "br0")
	}
	addresses(s.Web, "br0")
	believeAll(s.Web, "br0")
	return s, "br0", s.Web
}

// track makes a host track connections, as any rule that asks for their state
// does.
func track(t *testing.T, h *lab.Host) {
	h.Nft(t, `table inet tracking {
		chain in { type filter hook input priority filter; ct state invalid counter; }
	}`)
}

// addresses gives a host more of them, some only for neighbours.
func addresses(h *lab.Host, link string) {
	h.Addr("lo", single(local4))
	h.Addr("lo", single(local6))
	h.Addr(link, netip.PrefixFrom(nearby6, 64))
}

// believeAll makes the kernel refuse as little as it can be told to, so that
// the rules are on their own.
func believeAll(h *lab.Host, link string) {
	for _, conf := range []string{"all", link} {
		for _, sysctl := range []string{"route_localnet", "accept_local", "accept_source_route"} {
			h.Sysctl("net/ipv4/conf/"+conf+"/"+sysctl, "1")
		}
		h.Sysctl("net/ipv6/conf/"+conf+"/seg6_enabled", "1")
	}
}

func TestNoDisguiseGetsPast(t *testing.T) {
	for _, g := range grounds {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			g.test(t)
		})
	}
}

// The attempts of each round come from other ports, by which they are told apart.
const (
	controlRound  = 10000
	strangerRound = 20000
	insiderRound  = 30000
)

func (g ground) test(t *testing.T) {
	s, link, server := g.build(t)
	w := watch(t, s.Web, link, server)
	here, there := s.Client.MAC("eth0"), s.Web.MAC(link)
	try := func(round uint16, tcpCallers, udpCallers []netip.Addr) []attempt {
		var frames [][]byte
		attempts := g.attempts(round, tcpCallers, udpCallers)
		for _, a := range attempts {
			frames = append(frames, a.frames(here, there)...)
		}
		sendFrames(t, s.Client, "eth0", frames)
		return attempts
	}

	controls := try(controlRound, strangers, strangers)
	w.await(t, controls, func(a attempt) bool { return g.admits(a.disguise) })
	want := withFriends()
	want.policy.TCP, want.policy.UDP = ports(append(g.ports, 80)...), ports(443, 8443)
	want.facts = g.facts
	enforce(t, s.Web, want)
	hostile := try(strangerRound, strangers, strangers)
	friendly := try(insiderRound, edges, friends)
	mustPass := func(a attempt) bool { return g.admits(a.disguise) && !a.from.IsValid() }
	w.await(t, friendly, mustPass)

	arrived := w.arrived(t)
	proven := 0
	for i, a := range hostile {
		if arrived[controls[i].caller.Port()] {
			proven++
		}
		t.Run(a.String(), func(t *testing.T) {
			if g.admits(a.disguise) && !arrived[controls[i].caller.Port()] {
				t.Errorf("it does not get through without rules either, so this proves nothing")
			}
			if passes := a.noOpening && a.callee.Port() >= 1024; arrived[a.caller.Port()] != passes {
				t.Errorf("LEAKED %s from the stranger %s: got through %t, want %t", a, a.caller.Addr(), !passes, passes)
			}
			if in := friendly[i]; mustPass(in) && !arrived[in.caller.Port()] {
				t.Errorf("LOST %s from %s", in, in.caller.Addr())
			}
		})
	}
	t.Logf("%d attempts, of which %d get through without rules", len(hostile), proven)
}

// admits reports whether a disguise gets through where there are no rules.
func (g ground) admits(d disguise) bool {
	return d.refused == "" && (d.needs == "" || slices.Contains(g.traits, d.needs)) && !slices.Contains(g.traits, d.fails)
}

// attempts are each disguise on each guarded port that it is for.
func (g ground) attempts(round uint16, tcpCallers, udpCallers []netip.Addr) []attempt {
	var all []attempt
	add := func(d disguise, network string, caller netip.Addr, port uint16) {
		family := 4
		if caller.Is6() {
			family = 6
		}
		if d.family != 0 && d.family != family || d.network != "" && d.network != network {
			return
		}
		from := netip.AddrPortFrom(caller, round+uint16(len(all)))
		all = append(all, attempt{disguise: d, network: network, caller: from, callee: web(caller, port)})
	}
	for _, d := range disguises() {
		if g.reaches != nil && !g.reaches(d) {
			continue
		}
		for _, caller := range tcpCallers {
			for _, port := range g.ports {
				add(d, "tcp", caller, port)
			}
		}
		for _, caller := range udpCallers {
			add(d, "udp", caller, g.ports[0])
		}
	}
	return all
}

func (a attempt) String() string {
	family := "IPv4"
	if a.caller.Addr().Is6() {
		family = "IPv6"
	}
	return fmt.Sprintf("%s %s %d: %s", family, a.network, a.callee.Port(), a.name)
}

func (a attempt) frames(from, to net.HardwareAddr) [][]byte {
	if a.mac != nil {
		to = a.mac
	}
	var frames [][]byte
	for _, p := range a.packets() {
		etherType := uint16(unix.ETH_P_IP)
		if p.From.Is6() {
			etherType = unix.ETH_P_IPV6
		}
		packet := p.Bytes()
		if a.tags != nil {
			packet = slices.Concat(a.tags, []byte{byte(etherType >> 8), byte(etherType)}, packet)
			etherType = unix.ETH_P_8021Q
		}
		frames = append(frames, lab.Ethernet(from, to, etherType, packet))
	}
	return frames
}

// A witness sees from which ports attempts got through: to a UDP socket, or to
// a TCP that answered, be it with SYN+ACK or RST.
type witness struct {
	web *lab.Host

	mu        sync.Mutex
	datagrams map[uint16]bool
}

func watch(t *testing.T, web *lab.Host, link string, server *lab.Host) *witness {
	t.Helper()
	w := &witness{web: web, datagrams: make(map[uint16]bool)}
	web.Nft(t, `table inet witness {
		set answered { type inet_service; flags dynamic; size 65535; }
		chain out {
			type filter hook postrouting priority 300
			tcp sport { 443, 8443, 40443 } add @answered { tcp dport }
		}
	}`)
	server.ListenTCP(":443", ":40443")
	for _, network := range []string{"udp4", "udp6"} {
		var c net.PacketConn
		var err error
		server.Do(func() { c, err = listenToGroup(network, link) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go w.receive(c)
	}
	return w
}

func (w *witness) receive(c net.PacketConn) {
	for {
		_, from, err := c.ReadFrom(make([]byte, 2048))
		if err != nil {
			return // closed by the cleanup
		}
		w.mu.Lock()
		w.datagrams[from.(*net.UDPAddr).AddrPort().Port()] = true
		w.mu.Unlock()
	}
}

// arrived returns the ports from which attempts got through so far.
func (w *witness) arrived(t *testing.T) map[uint16]bool {
	t.Helper()
	w.mu.Lock()
	ports := maps.Clone(w.datagrams)
	w.mu.Unlock()
	list := w.web.NftList(t, "set", "inet", "witness", "answered")
	_, elements, _ := strings.Cut(list, "elements = {")
	for word := range strings.FieldsFuncSeq(elements, func(r rune) bool { return r < '0' || r > '9' }) {
		port, err := strconv.ParseUint(word, 10, 16)
		if err != nil {
			t.Fatalf("reading the witness: %v in %s", err, list)
		}
		ports[uint16(port)] = true
	}
	return ports
}

// await waits until those attempts have come that must, and a little longer for
// others.
func (w *witness) await(t *testing.T, attempts []attempt, must func(attempt) bool) {
	t.Helper()
	waiting := func() bool {
		arrived := w.arrived(t)
		return slices.ContainsFunc(attempts, func(a attempt) bool { return must(a) && !arrived[a.caller.Port()] })
	}
	for deadline := time.Now().Add(3 * time.Second); waiting() && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
}

// listenToGroup opens a UDP socket at port 443 that is in a group on a link.
func listenToGroup(network, link string) (net.PacketConn, error) {
	config := net.ListenConfig{}
	c, err := config.ListenPacket(context.Background(), network, ":443")
	if err != nil {
		return nil, err
	}
	i, err := net.InterfaceByName(link)
	if err != nil {
		return nil, err
	}
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	return c, os.NewSyscallError("joining a group", control(raw, func(fd int) error {
		if network == "udp4" {
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group4.As4(), Ifindex: int32(i.Index)})
		}
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: group6.As16(), Interface: uint32(i.Index)})
	}))
}
