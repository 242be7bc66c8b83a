package neighbours

import (
	"bytes"
	"encoding/binary"

	"github.com/cfwall/cfwall/firewall"
)

// An Answer is how sure we are that something holds.
type Answer int8

// The answers.
const (
	No Answer = iota
	Maybe
	Yes
)

func answer(holds bool) Answer {
	if holds {
		return Yes
	}
	return No
}

func (a Answer) not() Answer { return Yes - a }

func both(a, b Answer) Answer { return min(a, b) }

func either(a, b Answer) Answer { return max(a, b) }

// bits is a value of which some bits may be unknown: those that are zero in
// known, and then in value too.
type bits struct{ value, known []byte }

func known(b ...byte) bits { return bits{b, bytes.Repeat([]byte{0xff}, len(b))} }

func unknown(size int) bits { return bits{make([]byte, size), make([]byte, size)} }

func native16(n uint16) bits { return known(binary.NativeEndian.AppendUint16(nil, n)...) }

func native32(n uint32) bits { return known(binary.NativeEndian.AppendUint32(nil, n)...) }

func big16(n uint16) bits { return known(binary.BigEndian.AppendUint16(nil, n)...) }

// portBits knows a port, but not one of several.
func portBits(r firewall.PortRange) bits {
	if r.First != r.Last || r.Last == 0 {
		return unknown(2)
	}
	return big16(r.First)
}

func (b bits) certain() bool {
	for _, k := range b.known {
		if k != 0xff {
			return false
		}
	}
	return true
}

// highest is the value with all unknown bits set; value has them cleared.
func (b bits) highest() []byte {
	h := make([]byte, len(b.value))
	for i := range h {
		h[i] = b.value[i] | ^b.known[i]
	}
	return h
}

func (b bits) equals(want []byte) Answer {
	if len(want) != len(b.value) {
		return Maybe
	}
	for i := range want {
		if (want[i]^b.value[i])&b.known[i] != 0 {
			return No
		}
	}
	if b.certain() {
		return Yes
	}
	return Maybe
}

// atLeast and the others compare as the kernel does, byte by byte.
func (b bits) atLeast(limit []byte) Answer {
	switch {
	case bytes.Compare(b.value, limit) >= 0:
		return Yes
	case bytes.Compare(b.highest(), limit) < 0:
		return No
	default:
		return Maybe
	}
}

func (b bits) atMost(limit []byte) Answer {
	switch {
	case bytes.Compare(b.highest(), limit) <= 0:
		return Yes
	case bytes.Compare(b.value, limit) > 0:
		return No
	default:
		return Maybe
	}
}

// and clears the bits that a mask lacks, which makes them known.
func (b bits) and(mask []byte) bits {
	r := unknown(len(b.value))
	for i := range min(len(mask), len(r.value)) {
		r.value[i] = b.value[i] & mask[i]
		r.known[i] = b.known[i] | ^mask[i]
	}
	return r
}

func (b bits) xor(with []byte) bits {
	r := unknown(len(b.value))
	for i := range min(len(with), len(r.value)) {
		r.known[i] = b.known[i]
		r.value[i] = (b.value[i] ^ with[i]) & b.known[i]
	}
	return r
}

// put writes a value into a part of another.
func (b bits) put(at int, v bits) {
	copy(b.value[at:], v.value)
	copy(b.known[at:], v.known)
}

func (b bits) part(from, size int) bits {
	return bits{b.value[from : from+size], b.known[from : from+size]}
}

func (b bits) clone() bits { return bits{bytes.Clone(b.value), bytes.Clone(b.known)} }

// forget keeps only what two values agree about.
func (b bits) forget(other bits) {
	for i := range b.value {
		b.known[i] &= other.known[i] &^ (b.value[i] ^ other.value[i])
		b.value[i] &= b.known[i]
	}
}
