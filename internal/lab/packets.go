package lab

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// SYN returns the TCP segment that asks for a connection.
func SYN(from, to netip.AddrPort) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b[0:], from.Port())
	binary.BigEndian.PutUint16(b[2:], to.Port())
	binary.BigEndian.PutUint32(b[4:], 0x5eed)
	b[12] = 5 << 4 // header length in words
	b[13] = 0x02   // SYN
	binary.BigEndian.PutUint16(b[14:], 64240)
	binary.BigEndian.PutUint16(b[16:], checksum(pseudoHeader(from.Addr(), to.Addr(), unix.IPPROTO_TCP, len(b)), b))
	return b
}

// Datagram returns a UDP datagram.
func Datagram(from, to netip.AddrPort, data []byte) []byte {
	b := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(b[0:], from.Port())
	binary.BigEndian.PutUint16(b[2:], to.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(data)))
	b = append(b, data...)
	binary.BigEndian.PutUint16(b[6:], checksum(pseudoHeader(from.Addr(), to.Addr(), unix.IPPROTO_UDP, len(b)), b))
	return b
}

// An IP is a packet with the header fields that tests bend. IPv6 extension
// headers are the beginning of Payload, the first one named by Protocol.
type IP struct {
	From, To netip.Addr
	Protocol byte   // IPv6: the next header
	ID       uint16 // IPv4 only: tells the fragments of one packet
	Fragment uint16 // IPv4 only: flags and offset, as in the header
	Options  []byte // IPv4 only: a multiple of four bytes
	Payload  []byte
}

// Bytes returns the packet as it travels, its header checksum right.
func (p IP) Bytes() []byte {
	if p.From.Is6() {
		b := make([]byte, 40, 40+len(p.Payload))
		b[0] = 6 << 4
		binary.BigEndian.PutUint16(b[4:], uint16(len(p.Payload)))
		b[6], b[7] = p.Protocol, 64
		copy(b[8:], p.From.AsSlice())
		copy(b[24:], p.To.AsSlice())
		return append(b, p.Payload...)
	}
	b := make([]byte, 20, 20+len(p.Options)+len(p.Payload))
	b[0] = 4<<4 | byte(5+len(p.Options)/4)
	binary.BigEndian.PutUint16(b[2:], uint16(cap(b)))
	binary.BigEndian.PutUint16(b[4:], p.ID)
	binary.BigEndian.PutUint16(b[6:], p.Fragment)
	b[8], b[9] = 64, p.Protocol
	copy(b[12:], p.From.AsSlice())
	copy(b[16:], p.To.AsSlice())
	b = append(b, p.Options...)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, p.Payload...)
}

// Ethernet returns a frame. For a VLAN tag give 0x8100 as the type and put
// the tag and the true type before the packet.
func Ethernet(from, to net.HardwareAddr, etherType uint16, payload []byte) []byte {
	return slices.Concat(to, from, binary.BigEndian.AppendUint16(nil, etherType), payload)
}

// pseudoHeader is what the checksums of TCP and UDP cover besides themselves.
func pseudoHeader(from, to netip.Addr, protocol byte, length int) []byte {
	b := slices.Concat(from.AsSlice(), to.AsSlice())
	return append(binary.BigEndian.AppendUint32(b, uint32(length)), 0, 0, 0, protocol)
}

// checksum is the Internet checksum (RFC 1071) of its parts, of which only
// the last may have an odd length.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
