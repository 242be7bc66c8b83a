package systemdtest

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cfwall/cfwall/internal/lab"
)

// Who knocks. The edge's addresses are Cloudflare's, the stranger's are nobody's.
var (
	edge4     = netip.MustParseAddr("104.16.0.1")
	edge6     = netip.MustParseAddr("2606:4700::1")
	stranger4 = netip.MustParseAddr("198.51.100.7")
	stranger6 = netip.MustParseAddr("2001:db8:bad::7")
)

// A site is the place of a machine for one boot: its cable, and the Internet at
// the other end. As the machine has no power yet, its end is down and has no
// address; the web server listens already, earlier than any on a real host.
type site struct {
	net         *lab.Net
	client, web *lab.Host
}

// knockEvery is how long a gap in the firewall may last and perhaps not be found.
const knockEvery = time.Millisecond

// newSite makes a site, and counts what comes back to those who knock.
func newSite(t *testing.T) *site {
	t.Helper()
	n := lab.New(t)
	s := &site{n, n.Host("client"), n.Host("web")}
	n.Connect(s.client, "eth0", s.web, "eth0")
	s.client.Addr("eth0", netip.PrefixFrom(lab.Client4, 24))
	s.client.Addr("eth0", netip.PrefixFrom(lab.Client6, 64))
	for _, a := range []netip.Addr{edge4, edge6, stranger4, stranger6} {
		s.client.Addr("lo", netip.PrefixFrom(a, a.BitLen()))
	}
	s.client.Nft(t, answerCounters)
	s.web.Down("eth0")
	s.web.ListenTCP(":80", ":443")
	s.web.ListenUDP(":443")
	return s
}

// knock has strangers and Cloudflare try all doors, whether the machine is on or
// off, until stop is called or the test ends.
func (s *site) knock() (stop func()) {
	var frames [][]byte
	for _, who := range []netip.Addr{stranger4, stranger6, edge4, edge6} {
		frames = append(frames, s.knocks(who)...)
	}
	return s.client.Stream("eth0", knockEvery, frames...)
}

// knocks are the packets that open each kind of conversation, as frames for the
// machine.
func (s *site) knocks(who netip.Addr) [][]byte {
	host := lab.Web4
	if who.Is6() {
		host = lab.Web6
	}
	from := netip.AddrPortFrom(who, 40000)
	http, https := netip.AddrPortFrom(host, 80), netip.AddrPortFrom(host, 443)
	return [][]byte{
		s.frame(tcp, from, http, lab.SYN(from, http)),
		s.frame(tcp, from, https, lab.SYN(from, https)),
		s.frame(udp, from, https, lab.Datagram(from, https, []byte("knock"))),
	}
}

const tcp, udp = 6, 17

func (s *site) frame(protocol byte, from, to netip.AddrPort, payload []byte) []byte {
	etherType := uint16(0x0800)
	if to.Addr().Is6() {
		etherType = 0x86dd
	}
	p := lab.IP{From: from.Addr(), To: to.Addr(), Protocol: protocol, Payload: payload}
	return lab.Ethernet(s.client.MAC("eth0"), s.web.MAC("eth0"), etherType, p.Bytes())
}

// answerCounters count all that comes back, refusals too: whatever it is, the
// firewall let something through.
var answerCounters = fmt.Sprintf(`table inet answers {
	counter strangers { }
	counter edges { }
	chain arrive {
		type filter hook prerouting priority raw
		ip saddr %[1]s ip daddr %[3]s counter name strangers
		ip6 saddr %[2]s ip6 daddr %[4]s counter name strangers
		ip saddr %[1]s ip daddr %[5]s tcp flags syn counter name edges
		ip6 saddr %[2]s ip6 daddr %[6]s tcp flags syn counter name edges
	}
}`, lab.Web4, lab.Web6, stranger4, stranger6, edge4, edge6)

// strangersAnswered is how many packets have come back to those who must get none.
func (s *site) strangersAnswered(t *testing.T) int { return s.answered(t, "strangers") }

// edgesAnswered is how many connections of Cloudflare were accepted.
func (s *site) edgesAnswered(t *testing.T) int { return s.answered(t, "edges") }

func (s *site) answered(t *testing.T, who string) int {
	t.Helper()
	return s.client.Counter(t, "answers", who)
}
