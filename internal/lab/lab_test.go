package lab_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go4.org/netipx"

	"github.com/cfwall/cfwall/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

var (
	edge4    = netip.MustParsePrefix("173.245.48.0/20")
	edge6    = netip.MustParsePrefix("2606:4700::/32")
	stranger = netip.MustParseAddr("198.51.100.7")
)

// web names a port of the web host in the family of an address.
func web(family netip.Addr, port uint16) netip.AddrPort {
	if family.Is6() {
		return netip.AddrPortFrom(lab.Web6, port)
	}
	return netip.AddrPortFrom(lab.Web4, port)
}

// newSite is a site whose client has the edge's addresses and the stranger's.
func newSite(t *testing.T) *lab.Site {
	t.Helper()
	lab.Kernel(t)
	s := lab.NewSite(t)
	for _, p := range []netip.Prefix{edge4, edge6, netip.PrefixFrom(stranger, 32)} {
		s.Client.Anycast(p)
	}
	return s
}

func expect(t *testing.T, client *lab.Host, probes ...lab.Probe) {
	t.Helper()
	for _, r := range lab.Unexpected(client.DialMany(probes)) {
		t.Errorf("%v: admit %v, got: %v", r.Probe, r.Admit, r.Err)
	}
}

func TestHostsTalkAtOnce(t *testing.T) {
	s := newSite(t)
	s.Web.ListenTCP(":443")
	s.Web.ListenUDP(":443")
	start := time.Now()
	for _, network := range []string{"tcp", "udp"} {
		for _, from := range []netip.Addr{lab.Client4, lab.Client6} {
			expect(t, s.Client, lab.Probe{Network: network, From: from, To: web(from, 443), Admit: true})
		}
	}
	t.Logf("four conversations took %v", time.Since(start))
}

func TestClientHasThousandsOfAddresses(t *testing.T) {
	s := newSite(t)
	s.Web.ListenTCP(":443")
	s.Web.ListenUDP(":443")
	var sources []netip.Addr
	for _, p := range []netip.Prefix{edge4, edge6} {
		sources = append(sources, p.Addr(), netipx.PrefixLastIP(p))
	}
	for a := edge4.Addr().Next(); len(sources) < 2000; a = a.Next() {
		sources = append(sources, a)
	}
	var probes []lab.Probe
	for i, from := range sources {
		network := []string{"tcp", "udp"}[i/4%2]
		probes = append(probes, lab.Probe{Network: network, From: from, To: web(from, 443), Admit: true})
	}
	start := time.Now()
	expect(t, s.Client, probes...)
	t.Logf("%d conversations took %v", len(probes), time.Since(start))
}

func TestRuleBlocks(t *testing.T) {
	s := newSite(t)
	s.Web.ListenTCP(":443", ":22")
	s.Web.Nft(t, `table inet guard { chain guard {
		type filter hook prerouting priority raw
		ip saddr 173.245.48.0/20 accept
		ip6 saddr 2606:4700::/32 accept
		tcp dport { 443, 444 } drop
		udp dport 443 drop
		}
	}`)
	var probes []lab.Probe
	for _, port := range []uint16{22, 443} {
		for _, from := range []netip.Addr{edge4.Addr(), edge6.Addr(), lab.Client4, lab.Client6, stranger} {
			admit := port == 22 || edge4.Contains(from) || edge6.Contains(from)
			probes = append(probes, lab.Probe{Network: "tcp", From: from, To: web(from, port), Admit: admit})
		}
	}
	probes = append(probes, lab.Probe{Network: "udp", From: stranger, To: web(stranger, 443)})
	expect(t, s.Client, probes...)

	refused := s.Client.Dial("tcp", edge4.Addr(), web(edge4.Addr(), 444), 3*time.Second)
	if !errors.Is(refused, syscall.ECONNREFUSED) || errors.Is(refused, lab.ErrSilent) {
		t.Errorf("a closed port that the rules admit: got %v, want a refusal", refused)
	}
	if r := (lab.Result{Err: refused}); r.Expected() {
		t.Error("a refusal passed for a blocked probe: the packet got through")
	}
	if got := s.Web.NftList(t, "table", "inet", "guard"); !strings.Contains(got, "173.245.48.0/20") {
		t.Errorf("NftList printed %q", got)
	}
}

func TestPublishedContainerPort(t *testing.T) {
	s := newSite(t)
	s.Container().ListenTCP(":443")
	s.Web.Nft(t, `table inet nat { chain prerouting {
		type nat hook prerouting priority dstnat
		iifname eth0 tcp dport 8443 dnat ip to 172.17.0.2:443
		iifname eth0 tcp dport 8443 dnat ip6 to [fd00:17::2]:443
		}
	}`)
	var probes []lab.Probe
	for _, from := range []netip.Addr{lab.Client4, lab.Client6, edge4.Addr(), edge6.Addr()} {
		probes = append(probes, lab.Probe{Network: "tcp", From: from, To: web(from, 8443), Admit: true})
	}
	expect(t, s.Client, probes...)
}

func TestUDPEchoAnswersFromTheAddressAsked(t *testing.T) {
	s := newSite(t)
	second := netip.MustParsePrefix("192.0.2.3/24")
	s.Web.Addr("eth0", second)
	s.Web.ListenUDP(":443")
	to := netip.AddrPortFrom(second.Addr(), 443)
	expect(t, s.Client, lab.Probe{Network: "udp", From: lab.Client4, To: to, Admit: true})
}

func TestCraftedFrames(t *testing.T) {
	s := newSite(t)
	from4, to4 := netip.AddrPortFrom(stranger, 1024), web(stranger, 443)
	from6, to6 := netip.AddrPortFrom(edge6.Addr(), 1024), web(edge6.Addr(), 443)
	const udp, destinationOptions, moreFragments = 17, 60, 0x2000
	data := bytes.Repeat([]byte("odd"), 11)
	datagram4, datagram6 := lab.Datagram(from4, to4, data), lab.Datagram(from6, to6, data)
	v4 := lab.IP{From: stranger, To: lab.Web4, Protocol: udp, ID: 7, Payload: datagram4}

	options := v4
	options.Options = []byte{1, 1, 1, 0}
	first, second := v4, v4
	first.Fragment, first.Payload = moreFragments, datagram4[:16]
	second.Fragment, second.Payload = 16/8, datagram4[16:]
	extended := slices.Concat([]byte{udp, 0, 1, 4, 0, 0, 0, 0}, datagram6) // PadN fills the header

	tests := map[string]struct {
		etherType uint16
		packets   [][]byte
	}{
		"IPv4":                  {0x0800, [][]byte{v4.Bytes()}},
		"IPv4 options":          {0x0800, [][]byte{options.Bytes()}},
		"IPv4 fragments":        {0x0800, [][]byte{first.Bytes(), second.Bytes()}},
		"VLAN tag 0":            {0x8100, [][]byte{slices.Concat([]byte{0, 0, 8, 0}, v4.Bytes())}},
		"IPv6":                  {0x86dd, [][]byte{lab.IP{From: from6.Addr(), To: lab.Web6, Protocol: udp, Payload: datagram6}.Bytes()}},
		"IPv6 extension header": {0x86dd, [][]byte{lab.IP{From: from6.Addr(), To: lab.Web6, Protocol: destinationOptions, Payload: extended}.Bytes()}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			received := listen(t, s.Web, ":443")
			for _, p := range tt.packets {
				s.Client.SendFrame("eth0", lab.Ethernet(s.Client.MAC("eth0"), s.Web.MAC("eth0"), tt.etherType, p))
			}
			if got := received(); !bytes.Equal(got, data) {
				t.Errorf("the web host received %q, want %q", got, data)
			}
		})
	}
}

// listen returns a function that waits for a UDP datagram.
func listen(t *testing.T, h *lab.Host, address string) func() []byte {
	t.Helper()
	var c net.PacketConn
	var err error
	h.Do(func() { c, err = net.ListenPacket("udp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return func() []byte {
		t.Helper()
		c.SetReadDeadline(time.Now().Add(3 * time.Second))
		b := make([]byte, 1500)
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		return b[:n]
	}
}

func TestSpoofedLoopbackReachesPrerouting(t *testing.T) {
	s := newSite(t)
	from := netip.MustParseAddrPort("127.0.0.1:1024")
	seen := s.Web.CountArrivals(t, "tcp", 443, netip.PrefixFrom(from.Addr(), 32))
	p := lab.IP{From: from.Addr(), To: lab.Web4, Protocol: 6, Payload: lab.SYN(from, web(lab.Client4, 443))}
	s.Client.SendFrame("eth0", lab.Ethernet(s.Client.MAC("eth0"), s.Web.MAC("eth0"), 0x0800, p.Bytes()))
	if before, after := seen.Read(t); before != 1 || after != 1 {
		t.Errorf("counted %d before and %d after the firewall, want 1 and 1", before, after)
	}
}

func TestFloodIsCounted(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		for _, edge := range []netip.Prefix{edge4, edge6} {
			t.Run(network+" "+edge.String(), func(t *testing.T) { testFlood(t, network, edge) })
		}
	}
}

// testFlood floods from the edge and from the client's own address, which a rule drops.
func testFlood(t *testing.T, network string, edge netip.Prefix) {
	s := newSite(t)
	other := lab.Client4
	if edge.Addr().Is6() {
		other = lab.Client6
	}
	admitted := s.Web.CountArrivals(t, network, 443, edge)
	everyone := s.Web.CountArrivals(t, network, 443)
	s.Web.Nft(t, `table inet guard { chain guard {
		type filter hook prerouting priority raw
		ip saddr 192.0.2.1 meta l4proto { tcp, udp } drop
		ip6 saddr 2001:db8::1 meta l4proto { tcp, udp } drop
		}
	}`)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	flood := func(sent *int, sources ...netip.Addr) {
		wg.Go(func() {
			var err error
			if *sent, err = s.Client.Flood(ctx, network, sources, web(other, 443)); err != nil {
				t.Error(err)
			}
		})
	}
	var good, bad int
	flood(&good, edge.Addr(), netipx.PrefixLastIP(edge))
	flood(&bad, other)
	wg.Wait()

	before, after := admitted.Read(t)
	if good == 0 || before != after || before < good*9/10 || before > good {
		t.Errorf("edge: sent %d, arrived %d, got past %d; want all", good, before, after)
	}
	allBefore, allAfter := everyone.Read(t)
	if bad == 0 || allAfter != after || allBefore-before < bad*9/10 {
		t.Errorf("other: sent %d, arrived %d, got past %d; want none past", bad, allBefore-before, allAfter-after)
	}
	t.Logf("sent %d, arrived %d; blocked %d of %d", good, before, bad, allBefore-before)
}

func TestStreamGoesOnUntilItIsStopped(t *testing.T) {
	s := newSite(t)
	from, to := netip.AddrPortFrom(lab.Client4, 1024), web(lab.Client4, 443)
	syn := lab.IP{From: from.Addr(), To: to.Addr(), Protocol: 6, Payload: lab.SYN(from, to)}
	seen := s.Web.CountArrivals(t, "tcp", 443)
	stop := s.Client.Stream("eth0", time.Millisecond, lab.Ethernet(s.Client.MAC("eth0"), s.Web.MAC("eth0"), 0x0800, syn.Bytes()))
	arrived := func() int { n, _ := seen.Read(t); return n }
	for deadline := time.Now().Add(3 * time.Second); arrived() < 10; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d frames arrived in 3 s, want 10 at least", arrived())
		}
	}
	s.Web.Down("eth0")
	before := arrived()
	time.Sleep(10 * time.Millisecond)
	if n := arrived(); n != before {
		t.Errorf("%d frames arrived at a link that is down", n-before)
	}
	stop()
}

func TestDoReturnsHomeWhenTheTestEndsInside(t *testing.T) {
	s := newSite(t)
	home := namespace(t)
	ended := make(chan string)
	go func() {
		runtime.LockOSThread() // so that the thread looked at is the one that Do used
		defer func() { ended <- namespace(t) }()
		s.Web.Do(runtime.Goexit)
	}()
	if got := <-ended; got != home {
		t.Errorf("after a test ended inside, the thread is in %s, want %s", got, home)
	}

	var inside, nested string
	s.Web.Do(func() {
		inside = namespace(t)
		s.Client.Do(func() { nested = namespace(t) })
		if got := namespace(t); got != inside {
			t.Errorf("after a nested Do the thread is in %s, want %s", got, inside)
		}
	})
	if inside == home || nested == home || inside == nested {
		t.Errorf("outside %s, web %s, client %s: want three namespaces", home, inside, nested)
	}
	if got := namespace(t); got != home {
		t.Errorf("after Do the thread is in %s, want %s", got, home)
	}
}

func namespace(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestBridgesComeAndGo(t *testing.T) {
	s := newSite(t)
	links := func() (names []string) {
		s.Web.Do(func() {
			all, err := net.Interfaces()
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range all {
				names = append(names, l.Name)
			}
		})
		return names
	}
	s.Web.Bridge("br-0123456789ab")
	if !slices.Contains(links(), "br-0123456789ab") {
		t.Errorf("the bridge is missing: %v", links())
	}
	s.Web.Remove("br-0123456789ab")
	if slices.Contains(links(), "br-0123456789ab") {
		t.Errorf("the bridge is still there: %v", links())
	}
}

// TestWithoutRoot runs the first test again as nobody. Where this run is
// itself without root, that has been shown already.
func TestWithoutRoot(t *testing.T) {
	if ids, err := os.ReadFile("/proc/self/uid_map"); err != nil || strings.Fields(string(ids))[2] == "1" {
		t.Logf("this run has no root itself: %s %v", ids, err)
		return
	}
	out, err := again(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}, nil)
	if err != nil || !strings.Contains(out, "PASS: TestHostsTalkAtOnce") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func TestRefusesTheNamespaceOutside(t *testing.T) {
	for _, marker := range []string{"1", "", namespace(t)} {
		out, err := again(t, nil, []string{"CFWALL_LAB=" + marker})
		if err == nil || !strings.Contains(out, "unset it") || strings.Contains(out, "PASS") {
			t.Errorf("with CFWALL_LAB=%q: %v\n%s", marker, err, out)
		}
	}
}

func TestKernelTestsAreCounted(t *testing.T) {
	lab.Kernel(t)
	tally := t.TempDir() + "/tally"
	if out, err := again(t, nil, []string{"CFWALL_KERNEL_COUNT=" + tally}); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := os.ReadFile(tally)
	if err != nil || string(got) != "1 TestHostsTalkAtOnce\n" {
		t.Errorf("the tally is %q (%v)", got, err)
	}
}

// again runs TestHostsTalkAtOnce in a new process that is not yet in a lab.
func again(t *testing.T, attr *syscall.SysProcAttr, env []string) (string, error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHostsTalkAtOnce$", "-test.v")
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "CFWALL_")
	}), env...)
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	return string(out), err
}
