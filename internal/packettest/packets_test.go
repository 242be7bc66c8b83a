package packettest

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

// TCP flags (RFC 9293).
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
	urg
	ece
	cwr
)

// A segment is the TCP header with what tests bend; the zero one is a SYN.
type segment struct {
	flags    byte
	reserved byte   // the four bits beside the header length
	options  []byte // a multiple of four bytes
}

func (s segment) bytes(from, to netip.AddrPort, data []byte) []byte {
	b := lab.SYN(from, to)
	b[12] = byte(5+len(s.options)/4)<<4 | s.reserved
	if s.flags != 0 {
		b[13] = s.flags
	}
	b = slices.Concat(b, s.options, data)
	binary.BigEndian.PutUint16(b[16:], 0)
	pseudo := slices.Concat(from.Addr().AsSlice(), to.Addr().AsSlice(), []byte{0, unix.IPPROTO_TCP, byte(len(b) >> 8), byte(len(b))})
	binary.BigEndian.PutUint16(b[16:], checksum(slices.Concat(pseudo, b)))
	return b
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i, v := range b {
		sum += uint32(v) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// IPv6 extension headers (RFC 8200) and what else stands in for a protocol.
const (
	hopByHop           = 0
	inIPv6             = 41
	routing            = 43
	fragmentHeader     = 44
	authentication     = 51
	noNext             = 59
	destinationOptions = 60
)

// An extension is an IPv6 extension header behind its first two bytes.
type extension struct {
	kind byte
	body []byte
}

var (
	padding = []byte{1, 4, 0, 0, 0, 0} // a PadN option that fills eight bytes
	options = extension{destinationOptions, padding}
	hops    = extension{hopByHop, padding}
	// Routing headers that have nowhere left to go are passed over.
	arrived0       = extension{routing, []byte{0, 0, 0, 0, 0, 0}}
	arrived253     = extension{routing, []byte{253, 0, 0, 0, 0, 0}}
	atomicFragment = extension{fragmentHeader, make([]byte, 6)}
	// Segment routing (RFC 8754) with one segment, which is done.
	segments = extension{routing, append([]byte{4, 0, 0, 0, 0, 0}, lab.Web6.AsSlice()...)}
	signed   = extension{authentication, make([]byte, 22)}
	large    = extension{destinationOptions, oneKiB()}
)

// oneKiB is made of unknown options that are to be skipped, for Linux takes no
// long padding.
func oneKiB() []byte {
	body := padding
	for range 4 {
		body = slices.Concat(body, []byte{0x1e, 252}, make([]byte, 252))
	}
	return body
}

// behind puts extension headers, the outermost first, before the payload.
func behind(p lab.IP, headers ...extension) lab.IP {
	for _, h := range slices.Backward(headers) {
		size := byte((len(h.body)+2)/8 - 1)
		switch h.kind {
		case fragmentHeader:
			size = 0 // reserved there
		case authentication:
			size = byte((len(h.body)+2)/4 - 2)
		}
		p.Payload = slices.Concat([]byte{p.Protocol, size}, h.body, p.Payload)
		p.Protocol = h.kind
	}
	return p
}

// moreFragments is the flag beside the offset, in units of eight bytes in IPv4
// and shifted by three bits in IPv6.
const moreFragments = 0x2000

// piece is the fragment of a packet from one byte to another. The id tells
// fragments of one packet from those of another.
func piece(p lab.IP, id uint32, from, to int) lab.IP {
	last, data := to == len(p.Payload), p.Payload[from:to]
	if p.From.Is4() {
		p.ID, p.Fragment, p.Payload = uint16(id), p.Fragment|uint16(from/8), data
		if !last {
			p.Fragment |= moreFragments
		}
		return p
	}
	where := uint16(from)
	if !last {
		where |= 1
	}
	body := binary.BigEndian.AppendUint16(nil, where)
	body = binary.BigEndian.AppendUint32(body, id)
	p.Payload = data
	return behind(p, extension{fragmentHeader, body})
}

// pieces cuts a packet at the given bytes, in order.
func pieces(p lab.IP, id uint32, cuts ...int) []lab.IP {
	var all []lab.IP
	from := 0
	for _, to := range append(cuts, len(p.Payload)) {
		if to = min(to, len(p.Payload)); to > from {
			all = append(all, piece(p, id, from, to))
			from = to
		}
	}
	return all
}
