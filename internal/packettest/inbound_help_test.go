package packettest

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/internal/lab"
)

// configured is what a config file wants, with the friends in [allow] from.
func configured(t *testing.T, file string) wanted {
	t.Helper()
	c, err := config.Parse(strings.NewReader(file), "config.toml")
	if err != nil {
		t.Fatal(err)
	}
	w := withFriends()
	c.Policy.Allow = w.policy.Allow
	w.policy = c.Policy
	return w
}

// A knock is a packet to a host that lets in only what it must.
type knock struct {
	name   string
	family int          // 4 or 6; 0 for both
	by     []netip.Addr // IPv4 and IPv6; the strangers where nil
	to     []netip.Addr // likewise; the host where nil
	mac    net.HardwareAddr
	carry  content
	dress  dressing
	admit  bool
}

func sources(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range texts {
		all = append(all, addr(s))
	}
	return all
}

// A content is what a packet carries. The number tells packets apart.
type content func(from, to netip.Addr, number uint16) (protocol byte, payload []byte)

// segmentTo is a TCP segment; without flags it is a SYN.
func segmentTo(port uint16, flags ...byte) content {
	var s segment
	for _, f := range flags {
		s.flags |= f
	}
	return func(from, to netip.Addr, number uint16) (byte, []byte) {
		return unix.IPPROTO_TCP, s.bytes(netip.AddrPortFrom(from, number), netip.AddrPortFrom(to, port), nil)
	}
}

// datagramTo is a UDP datagram of a size.
func datagramTo(port uint16, size int) content {
	return func(from, to netip.Addr, number uint16) (byte, []byte) {
		return unix.IPPROTO_UDP, lab.Datagram(netip.AddrPortFrom(from, number), netip.AddrPortFrom(to, port), make([]byte, size))
	}
}

// datagram is a UDP datagram from a certain port.
func datagram(source, destination uint16) content {
	return func(from, to netip.Addr, _ uint16) (byte, []byte) {
		return unix.IPPROTO_UDP, lab.Datagram(netip.AddrPortFrom(from, source), netip.AddrPortFrom(to, destination), make([]byte, 16))
	}
}

// message is an ICMP message of the packet's family. It has room for the
// packet that an error is about: one that the host never sent.
func message(kind, code byte) content {
	return func(from, to netip.Addr, number uint16) (byte, []byte) {
		about := lab.IP{From: to, To: from, Protocol: unix.IPPROTO_UDP, Payload: make([]byte, 8)}
		b := append([]byte{kind, code, 0, 0, byte(number >> 8), byte(number), 0, 0}, about.Bytes()...)
		if from.Is4() {
			return unix.IPPROTO_ICMP, signICMP(b, nil)
		}
		return unix.IPPROTO_ICMPV6, signICMP(b, pseudoICMPv6(from, to, len(b)))
	}
}

func pseudoICMPv6(from, to netip.Addr, size int) []byte {
	return slices.Concat(from.AsSlice(), to.AsSlice(), []byte{0, 0, byte(size >> 8), byte(size), 0, 0, 0, unix.IPPROTO_ICMPV6})
}

// signICMP fills in the checksum of a message.
func signICMP(b, pseudo []byte) []byte {
	binary.BigEndian.PutUint16(b[2:], checksum(slices.Concat(pseudo, b)))
	return b
}

// raw is a packet of some other protocol, which a port number at the place
// where TCP and UDP have it does not open.
func raw(protocol byte) content {
	return func(_, _ netip.Addr, number uint16) (byte, []byte) {
		return protocol, append([]byte{byte(number >> 8), byte(number), 0, 22}, make([]byte, 28)...)
	}
}

// A packed knock is ready to be sent in one family.
type packedKnock struct {
	knock
	number uint16
	frames [][]byte
}

func (p packedKnock) String() string { return "IPv" + strconv.Itoa(p.family) + " " + p.name }

// pack makes the frames of all knocks; those of a round have numbers of their own.
func pack(knocks []knock, round uint16, from, to net.HardwareAddr) []packedKnock {
	var all []packedKnock
	for _, k := range knocks {
		for i, family := range []int{4, 6} {
			if k.family != 0 && k.family != family {
				continue
			}
			p := packedKnock{knock: k, number: round + uint16(len(all))}
			p.family = family
			p.frames = p.frame(i, from, to)
			all = append(all, p)
		}
	}
	return all
}

func (p packedKnock) frame(i int, from, to net.HardwareAddr) [][]byte {
	packet := lab.IP{From: p.at(p.by, strangers, i), To: p.at(p.to, []netip.Addr{lab.Web4, lab.Web6}, i), ID: p.number}
	packet.Protocol, packet.Payload = p.carry(packet.From, packet.To, p.number)
	packets := []lab.IP{packet}
	if p.dress != nil {
		packets = p.dress(packet, uint32(p.number))
	}
	if p.mac != nil {
		to = p.mac
	}
	var frames [][]byte
	for _, one := range packets {
		b, etherType := one.Bytes(), uint16(unix.ETH_P_IP)
		if one.From.Is6() {
			etherType = unix.ETH_P_IPV6
			binary.BigEndian.PutUint16(b[2:], p.number) // the flow label
		}
		frames = append(frames, lab.Ethernet(from, to, etherType, b))
	}
	return frames
}

// at chooses an address by the family; who names a single one means that.
func (p packedKnock) at(chosen, otherwise []netip.Addr, i int) netip.Addr {
	switch len(chosen) {
	case 0:
		return otherwise[i]
	case 1:
		return chosen[0]
	}
	return chosen[i]
}

// A doorman notes the numbers of the packets that come past all rules, to the
// host or through it.
type doorman struct{ web *lab.Host }

func newDoorman(t *testing.T, web *lab.Host) doorman {
	t.Helper()
	web.Nft(t, `table inet doorman {
		set came4 { typeof ip id; flags dynamic; size 65535; }
		set came6 { typeof ip6 flowlabel; flags dynamic; size 65535; }
		chain note { add @came4 { ip id }; add @came6 { ip6 flowlabel }; }
		chain in { type filter hook input priority 300; jump note; }
		chain through { type filter hook forward priority 300; jump note; }
	}`)
	return doorman{web}
}

// mute keeps a host from saying anything but what neighbours must know, so that
// only frames made by hand go out.
func mute(t *testing.T, h *lab.Host) {
	t.Helper()
	h.Nft(t, `table inet mute {
		chain out {
			type filter hook output priority 0; policy drop
			icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		}
	}`)
}

func (d doorman) came(t *testing.T) map[uint16]bool {
	t.Helper()
	numbers := make(map[uint16]bool)
	for _, set := range []string{"came4", "came6"} {
		_, elements, _ := strings.Cut(d.web.NftList(t, "set", "inet", "doorman", set), "elements = {")
		for word := range strings.FieldsFuncSeq(elements, func(r rune) bool { return r < '0' || r > '9' }) {
			n, err := strconv.ParseUint(word, 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			numbers[uint16(n)] = true
		}
	}
	return numbers
}

// receive returns what has come of knocks that a host sends, once those have
// come that must, and a little later.
func (d doorman) receive(t *testing.T, from *lab.Host, knocks []packedKnock, must func(packedKnock) bool) map[uint16]bool {
	t.Helper()
	var frames [][]byte
	for _, k := range knocks {
		frames = append(frames, k.frames...)
	}
	sendFrames(t, from, "eth0", frames)
	missing := func() bool {
		came := d.came(t)
		return slices.ContainsFunc(knocks, func(k packedKnock) bool { return must(k) && !came[k.number] })
	}
	for deadline := time.Now().Add(3 * time.Second); missing() && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	return d.came(t)
}

// Patience is long for what should come, and short for what should not.
const (
	patient   = 3 * time.Second
	impatient = 300 * time.Millisecond
)

func patience(should bool) time.Duration {
	if should {
		return patient
	}
	return impatient
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// dialTCP connects from an address and a port, or from any.
func dialTCP(h *lab.Host, from, to netip.AddrPort, patience time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: patience, Control: reuseAddress}
	if from.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(from)
	}
	var c net.Conn
	var err error
	h.Do(func() { c, err = dialer.Dial("tcp", to.String()) })
	return c, err
}

// A question is a datagram to an echo service.
type question struct {
	from, to netip.AddrPort
	size     int
	hops     int           // that it may make; 0 for as many as usual
	patience time.Duration // 0 for a long one
}

// ask waits for the echo or an error.
func (q question) ask(h *lab.Host) error {
	dialer := net.Dialer{Control: q.options}
	if q.from.IsValid() {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(q.from)
	}
	var c net.Conn
	var err error
	h.Do(func() { c, err = dialer.Dial("udp", q.to.String()) })
	if err != nil {
		return err
	}
	defer c.Close()
	if q.patience == 0 {
		q.patience = patient
	}
	for deadline := time.Now().Add(q.patience); ; {
		c.SetDeadline(time.Now().Add(impatient))
		if _, err = c.Write(make([]byte, q.size)); err == nil {
			_, err = io.ReadAtLeast(c, make([]byte, q.size), q.size)
		}
		// A large one may be lost while the way's MTU is found out.
		again := isTimeout(err) || errors.Is(err, unix.EMSGSIZE)
		if !again || time.Now().After(deadline) {
			return err
		}
	}
}

// options limit how far the question goes, and have the socket hear of where
// it ended: Linux tells only those who ask.
func (q question) options(network, _ string, c syscall.RawConn) error {
	if q.hops == 0 {
		return nil
	}
	level, errs, hops := unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_TTL
	if network == "udp6" {
		level, errs, hops = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_UNICAST_HOPS
	}
	return control(c, func(fd int) error {
		return errors.Join(unix.SetsockoptInt(fd, level, errs, 1), unix.SetsockoptInt(fd, level, hops, q.hops))
	})
}
