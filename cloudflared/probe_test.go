package cloudflared

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cfwall/cfwall/internal/lab"
)

// probeFrom calls Probe in a process of the host: the connections of a
// process belong to all of its threads.
func probeFrom(t *testing.T, h *lab.Host, edge ...netip.Addr) (results []ProbeResult) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"prober"}
	for _, a := range edge {
		cmd.Args = append(cmd.Args, a.String())
	}
	cmd.Stderr = os.Stderr
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.Start(cmd)
	if err := json.NewDecoder(output).Decode(&results); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return results
}

// serveQUIC answers every packet with version negotiation until the test ends.
func serveQUIC(t *testing.T, h *lab.Host, address string) {
	t.Helper()
	var c net.PacketConn
	var err error
	h.Do(func() { c, err = net.ListenPacket("udp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		for {
			packet := make([]byte, 1500)
			n, from, err := c.ReadFrom(packet)
			if err != nil {
				return // closed by the cleanup
			}
			answers := [][]byte{[]byte("noise")}
			if n == helloSize && packet[0]&0x80 != 0 {
				answers = append(answers, versionNegotiation(packet[:n]))
			}
			for _, a := range answers {
				_, _ = c.WriteTo(a, from) // a client that gets none says so
			}
		}
	}()
}

// versionNegotiation answers a packet with a long header (RFC 8999, 6).
func versionNegotiation(packet []byte) []byte {
	to := packet[6:][:packet[5]]
	from := packet[7+len(to):][:packet[6+len(to)]]
	answer := append([]byte{0x80, 0, 0, 0, 0, byte(len(from))}, from...)
	answer = append(append(answer, byte(len(to))), to...)
	return binary.BigEndian.AppendUint32(answer, 1)
}

// newEdge is a site whose client serves both protocols.
func newEdge(t *testing.T) *lab.Site {
	t.Helper()
	lab.Kernel(t)
	s := lab.NewSite(t)
	s.Client.ListenTCP("192.0.2.1:7844", "[2001:db8::1]:7844")
	serveQUIC(t, s.Client, "192.0.2.1:7844")
	serveQUIC(t, s.Client, "[2001:db8::1]:7844")
	return s
}

// expectProbe compares results, each as "tcp IPv4 192.0.2.1" and a problem.
func expectProbe(t *testing.T, results []ProbeResult, want map[string]string) {
	t.Helper()
	got := make(map[string]string)
	for _, r := range results {
		got[fmt.Sprintf("%s %s %s", r.Protocol, r.Family, r.Address)] = r.Problem
		if r.OK != (r.Problem == "") {
			t.Errorf("got %+v", r)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

const dropped = "no answer within 3s: dropped on the way, or nobody is there"

func TestProbe(t *testing.T) {
	s := newEdge(t)
	expectProbe(t, probeFrom(t, s.Web, lab.Client4, lab.Client6), map[string]string{
		"tcp IPv4 192.0.2.1": "", "udp IPv4 192.0.2.1": "", "tcp IPv6 2001:db8::1": "", "udp IPv6 2001:db8::1": "",
	})
	expectProbe(t, probeFrom(t, s.Web, lab.Client6), map[string]string{"tcp IPv6 2001:db8::1": "", "udp IPv6 2001:db8::1": ""})
	expectProbe(t, probeFrom(t, s.Web), map[string]string{})
}

// TestProbeTriesOthers: one address that answers is enough.
func TestProbeTriesOthers(t *testing.T) {
	s := newEdge(t)
	closed, away := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11")
	s.Client.Addr("eth0", netip.PrefixFrom(closed, 24))
	expectProbe(t, probeFrom(t, s.Web, closed, away, lab.Client4), map[string]string{"tcp IPv4 192.0.2.1": "", "udp IPv4 192.0.2.1": ""})
}

func TestProbeWithoutRoute(t *testing.T) {
	lab.Kernel(t)
	h := lab.New(t).Host("alone")
	expectProbe(t, probeFrom(t, h, lab.Client4, lab.Client6), map[string]string{
		"tcp IPv4 192.0.2.1": "no route to it", "udp IPv4 192.0.2.1": "no route to it",
		"tcp IPv6 2001:db8::1": "no route to it", "udp IPv6 2001:db8::1": "no route to it",
	})
}

func TestProbeMeetsRules(t *testing.T) {
	const (
		refused     = "refused: a firewall rejects it, or nobody listens there"
		unreachable = "host unreachable, or a firewall rejects it"
		prohibited  = "prohibited by a firewall or a route"
		notOut      = "a firewall rule of this host does not let it out"
	)
	tests := []struct {
		name                   string
		here                   bool // on the host that probes, else on the edge
		hook, rules            string
		tcp4, udp4, tcp6, udp6 string
	}{
		{"dropped on the way", false, "prerouting", "ip protocol udp udp dport 7844 drop\nip6 nexthdr { tcp, udp } th dport 7844 drop", "", dropped, dropped, dropped},
		{"rejected", false, "input", "meta l4proto { tcp, udp } reject", refused, refused, refused, refused},
		{"rejected by resets", false, "input", "tcp dport 7844 reject with tcp reset", refused, "", refused, ""},
		{"rejected by name", false, "input", "th dport 7844 reject with icmpx admin-prohibited", unreachable, unreachable, prohibited, prohibited},
		{"rejected as unreachable", false, "input", "th dport 7844 reject with icmpx host-unreachable", unreachable, unreachable, unreachable, unreachable},
		{"not let out", true, "output", "th dport 7844 drop", dropped, notOut, dropped, notOut},
		{"rejected here", true, "output", "th dport 7844 reject", refused, notOut, refused, notOut},
		{"rejected here by name", true, "output", "th dport 7844 reject with icmpx admin-prohibited", unreachable, notOut, prohibited, notOut},
		{"answers dropped here", true, "prerouting", "th sport 7844 drop", dropped, dropped, dropped, dropped},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newEdge(t)
			h := s.Client
			if tt.here {
				h = s.Web
			}
			h.Nft(t, fmt.Sprintf("table inet t { chain c {\ntype filter hook %s priority 0\n%s\n}\n}", tt.hook, tt.rules))
			expectProbe(t, probeFrom(t, s.Web, lab.Client4, lab.Client6), map[string]string{
				"tcp IPv4 192.0.2.1": tt.tcp4, "udp IPv4 192.0.2.1": tt.udp4,
				"tcp IPv6 2001:db8::1": tt.tcp6, "udp IPv6 2001:db8::1": tt.udp6,
			})
		})
	}
}

// TestProbeIsNotFooled: what a server of another kind sends back is no answer.
func TestProbeIsNotFooled(t *testing.T) {
	t.Parallel()
	lab.Kernel(t)
	s := lab.NewSite(t)
	s.Client.ListenUDP(":7844") // an echo
	for _, r := range probeFrom(t, s.Web, lab.Client4) {
		if r.OK {
			t.Errorf("got %+v", r)
		}
	}
}

func TestSome(t *testing.T) {
	var edge []netip.Addr
	for i := range 10 {
		edge = append(edge, netip.AddrFrom4([4]byte{198, 41, 192, byte(i)}), netip.AddrFrom4([4]byte{198, 41, 200, byte(i)}))
	}
	slices.SortFunc(edge, netip.Addr.Compare)
	got := some(edge, "IPv4")
	if len(got) != probeAddresses || len(some(edge, "IPv6")) != 0 {
		t.Errorf("got %v", got)
	}
	for _, network := range []string{"198.41.192.0/24", "198.41.200.0/24"} {
		if !slices.ContainsFunc(got, netip.MustParsePrefix(network).Contains) {
			t.Errorf("%v has no address of the region %s", got, network)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	hello := newHello()
	copy(hello[6:], "12345678") // the same IDs in every process that fuzzes
	copy(hello[7+idSize:], "abcdefgh")
	f.Add(versionNegotiation(hello))
	f.Add(hello)
	f.Add([]byte{0x80, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, packet []byte) {
		want := versionNegotiation(hello)
		want = want[:len(want)-4]
		if answers(hello, packet) && (len(packet) < len(want) || !slices.Equal(packet[1:len(want)], want[1:])) {
			t.Errorf("%x is an answer to %x", packet, hello[:24])
		}
	})
}
