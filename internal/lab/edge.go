package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cfwall/cfwall/ipranges"
)

// What cloudflared connects to besides ipranges.TunnelEdge: the resolver that it
// falls back to, and the API for updates, with the documented addresses.
var (
	CloudflareResolver = netip.MustParseAddr("1.1.1.1")
	CloudflareAPI4     = netip.MustParseAddr("104.19.192.29")
	CloudflareAPI6     = netip.MustParseAddr("2606:4700:300a::6813:c01d")
)

// An Edge plays all that cloudflared connects to.
type Edge struct {
	// NoSRV has the DNS at port 53 fail to find services, as that of some home
	// routers does.
	NoSRV bool
}

// Edge gives a host the addresses of the tunnel's other end in every region and
// of Cloudflare's API, and serves there until the test ends: an echo at ports
// 443 and 7844, DNS at port 53 and, without the TLS, at 853. It serves so at
// all addresses of the host: what should not get out is not refused here.
func (h *Host) Edge(e Edge) {
	h.t.Helper()
	z := make(zone)
	addresses := []netip.Addr{CloudflareResolver, CloudflareAPI4, CloudflareAPI6}
	for _, region := range ipranges.TunnelRegions() {
		addresses = append(addresses, z.addRegion(region)...)
	}
	for _, a := range addresses {
		h.Addr("lo", netip.PrefixFrom(a, a.BitLen()))
	}
	z.addAddresses(apiName, CloudflareAPI4, CloudflareAPI6)
	for _, name := range settings {
		z.add(name, dnsTXT, append([]byte{5}, "lab=1"...))
	}
	h.ListenTCP(":443", ":7844")
	h.ListenUDP(":443", ":7844")
	z.serveTCP(h, ":853")
	if e.NoSRV {
		z = maps.Clone(z)
		maps.DeleteFunc(z, func(q question, _ [][]byte) bool { return q.kind == dnsSRV })
	}
	z.serveTCP(h, ":53")
	z.serveUDP(h, ":53")
}

const apiName = "api.cloudflare.com."

// settings are names under which Cloudflare keeps settings of cloudflared.
var settings = []string{"protocol-v2.argotunnel.com.", "cfd-features.argotunnel.com."}

// regionPrefix stands before the names of a region.
func regionPrefix(region string) string {
	if region == "global" {
		return ""
	}
	return region + "-"
}

// A Cloudflared stands in for the program: it sends what version 2026.8.2 was
// seen to send, to each of the addresses among which that one chooses. TLS and
// QUIC are left out: no packet filter looks into them.
type Cloudflared struct {
	Region   string     // one of ipranges.TunnelRegions
	Resolver netip.Addr // of the host
	IPv4     bool       // the host has no IPv6
}

// A Conversation is something that a Cloudflared tried, and how it went.
type Conversation struct {
	What string // "udp 198.41.192.7:7844", "DNS api.cloudflare.com."
	Err  error
}

// Cloudflared starts the stand-in on a host. It returns once all was tried.
func (h *Host) Cloudflared(c Cloudflared) []Conversation {
	run := &run{Cloudflared: c, host: h, resolver: h.resolver("udp", netip.AddrPortFrom(c.Resolver, 53))}
	var edge []netip.Addr
	for _, name := range run.discover() {
		edge = append(edge, run.addresses(name)...)
	}
	for _, name := range settings {
		_, err := run.resolver.LookupTXT(context.Background(), name)
		run.note("DNS "+name, err)
	}
	run.quic(edge)
	run.tcp(edge, 7844)
	run.tcp(run.addresses(apiName), 443)
	return run.tried
}

// A run is one start of a Cloudflared.
type run struct {
	Cloudflared
	host     *Host
	resolver *net.Resolver
	tried    []Conversation
}

func (r *run) note(what string, err error) { r.tried = append(r.tried, Conversation{what, err}) }

// discover finds the names of the edge. Where the host's resolver fails, and
// for nothing else, Cloudflare's is asked.
func (r *run) discover() []string {
	service := regionPrefix(r.Region) + "v2-origintunneld"
	_, found, err := r.resolver.LookupSRV(context.Background(), service, "tcp", "argotunnel.com.")
	if err != nil {
		other := r.host.resolver("tcp", netip.AddrPortFrom(CloudflareResolver, 853))
		_, found, err = other.LookupSRV(context.Background(), service, "tcp", "argotunnel.com.")
		r.note("DNS over TLS, services", err)
	} else {
		r.note("DNS, services", nil)
	}
	var names []string
	for _, f := range found {
		names = append(names, f.Target)
	}
	return names
}

func (r *run) addresses(name string) []netip.Addr {
	network := "ip"
	if r.IPv4 {
		network = "ip4"
	}
	found, err := r.resolver.LookupNetIP(context.Background(), network, name)
	r.note("DNS "+name, err)
	for i := range found {
		found[i] = found[i].Unmap()
	}
	return found
}

func (r *run) tcp(to []netip.Addr, port uint16) {
	var probes []Probe
	for _, a := range to {
		probes = append(probes, Probe{Network: "tcp", To: netip.AddrPortFrom(a, port), Admit: true})
	}
	for _, result := range r.host.DialMany(probes) {
		r.note("tcp "+result.To.String(), result.Err)
	}
}

// quic talks to all of the edge from one socket that is connected to none of
// it, as the QUIC library has it.
func (r *run) quic(edge []netip.Addr) {
	var conn *net.UDPConn
	var err error
	r.host.Do(func() { conn, err = net.ListenUDP("udp", &net.UDPAddr{}) })
	if err != nil {
		r.note("udp", err)
		return
	}
	defer conn.Close()
	deadline := time.Now().Add(patience)
	for _, a := range edge {
		at := netip.AddrPortFrom(a, 7844)
		r.note("udp "+at.String(), silentIfTimeout(echoUDP(&unconnected{conn, at}, deadline)))
	}
}

// unconnected talks to one peer through a socket that is open to all.
type unconnected struct {
	*net.UDPConn
	peer netip.AddrPort
}

func (u *unconnected) Write(b []byte) (int, error) { return u.WriteToUDPAddrPort(b, u.peer) }

func (u *unconnected) Read(b []byte) (int, error) {
	for {
		n, from, err := u.ReadFromUDPAddrPort(b)
		if err != nil || from.Port() == u.peer.Port() && from.Addr().Unmap() == u.peer.Addr() {
			return n, err
		}
	}
}

// resolver asks one server, over UDP or TCP.
func (h *Host) resolver(network string, server netip.AddrPort) *net.Resolver {
	dial := func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
		h.Do(func() { conn, err = new(net.Dialer).DialContext(ctx, network, server.String()) })
		return conn, err
	}
	return &net.Resolver{PreferGo: true, Dial: dial}
}

// Types of DNS records (RFC 1035, RFC 3596, RFC 2782).
const (
	dnsA    = 1
	dnsTXT  = 16
	dnsAAAA = 28
	dnsSRV  = 33
)

// A question is what DNS is asked; the name ends in a dot.
type question struct {
	name string
	kind uint16
}

// A zone holds the data of DNS records.
type zone map[question][][]byte

func (z zone) add(name string, kind uint16, data []byte) {
	q := question{name, kind}
	z[q] = append(z[q], data)
}

func (z zone) addAddresses(name string, addresses ...netip.Addr) {
	for _, a := range addresses {
		if a.Is4() {
			z.add(name, dnsA, a.AsSlice())
		} else {
			z.add(name, dnsAAAA, a.AsSlice())
		}
	}
}

// addRegion names the addresses of a region, half of each family region1 and
// the rest region2, and returns them.
func (z zone) addRegion(region string) []netip.Addr {
	edge, _ := ipranges.TunnelEdge(region)
	prefix := regionPrefix(region)
	var all []netip.Addr
	for _, networks := range [][]netip.Prefix{edge.V4(), edge.V6()} {
		var addresses []netip.Addr
		for _, n := range networks {
			for a := n.Addr(); n.Contains(a); a = a.Next() {
				addresses = append(addresses, a)
			}
		}
		half := len(addresses) / 2
		z.addAddresses(prefix+"region1.v2.argotunnel.com.", addresses[:half]...)
		z.addAddresses(prefix+"region2.v2.argotunnel.com.", addresses[half:]...)
		all = append(all, addresses...)
	}
	for _, name := range []string{"region1", "region2"} {
		const preference = "\x00\x01\x00\x01\x1e\xa4" // priority 1, weight 1, port 7844
		target := dnsName(prefix + name + ".v2.argotunnel.com.")
		z.add("_"+prefix+"v2-origintunneld._tcp.argotunnel.com.", dnsSRV, append([]byte(preference), target...))
	}
	return all
}

// dnsName is a name as it travels.
func dnsName(name string) []byte {
	var b []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

var errNoQuestion = errors.New("no question of DNS")

const dnsHeader = 12 // bytes

// parseQuestion reads the question of a query, and returns where it ends.
func parseQuestion(query []byte) (q question, end int, err error) {
	for end = dnsHeader; end < len(query) && query[end] != 0; end += 1 + int(query[end]) {
		if end+1+int(query[end]) > len(query) {
			return q, 0, errNoQuestion
		}
		q.name += string(query[end+1:end+1+int(query[end])]) + "."
	}
	end += 5
	if end > len(query) {
		return q, 0, errNoQuestion
	}
	q.kind = binary.BigEndian.Uint16(query[end-4:])
	return q, end, nil
}

// answer answers a query. What is not in the zone has no records.
func (z zone) answer(query []byte) ([]byte, error) {
	q, end, err := parseQuestion(query)
	if err != nil {
		return nil, err
	}
	b := slices.Concat(query[:2], []byte{0x85, 0x80, 0, 1, 0, byte(len(z[q])), 0, 0, 0, 0}, query[dnsHeader:end])
	for _, data := range z[q] {
		b = append(b, 0xc0, dnsHeader) // the name is that in the question
		b = binary.BigEndian.AppendUint16(b, q.kind)
		b = append(b, 0, 1, 0, 0, 0, 60, 0, byte(len(data))) // of the Internet, for a minute
		b = append(b, data...)
	}
	return b, nil
}

// serveUDP answers DNS on a port until the test ends.
func (z zone) serveUDP(h *Host, address string) {
	h.t.Helper()
	var conn net.PacketConn
	var err error
	listen := net.ListenConfig{Control: tellDestination}
	h.Do(func() { conn, err = listen.ListenPacket(context.Background(), "udp", address) })
	h.check(err, "listening")
	h.t.Cleanup(func() { conn.Close() })
	go z.answerUDP(conn.(*net.UDPConn))
}

func (z zone) answerUDP(c *net.UDPConn) {
	query, control := make([]byte, 512), make([]byte, 128)
	for {
		n, m, _, from, err := c.ReadMsgUDPAddrPort(query, control)
		if err != nil {
			return // closed by the cleanup
		}
		if answer, err := z.answer(query[:n]); err == nil {
			c.WriteMsgUDPAddrPort(answer, control[:m], from)
		}
	}
}

// serveTCP answers DNS on a port until the test ends.
func (z zone) serveTCP(h *Host, address string) {
	h.t.Helper()
	var l net.Listener
	var err error
	h.Do(func() { l, err = net.Listen("tcp", address) })
	h.check(err, "listening")
	h.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed by the cleanup
			}
			go func() {
				defer c.Close()
				_ = z.answerTCP(c) // the client may leave as it likes
			}()
		}
	}()
}

// answerTCP answers until the client has enough. The length of a message stands
// before it (RFC 1035, section 4.2.2).
func (z zone) answerTCP(c net.Conn) error {
	for {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return err
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return err
		}
		answer, err := z.answer(query)
		if err != nil {
			return err
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return err
		}
	}
}
