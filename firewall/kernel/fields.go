package kernel

import (
	"bytes"
	"encoding/binary"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// attributeType masks the flags of an attribute's type: nf_tables sets
// NLA_F_NESTED on some nested attributes and not on others.
const attributeType = 0x3fff

// fields holds the attributes of one object. Each reader takes its attribute
// out, so that done tells whether all were understood.
type fields struct {
	values map[uint16][]byte
	broken bool
}

// parseFields splits a list of attributes. An attribute cut short, or one that
// comes twice, makes the object one that is not understood.
func parseFields(b []byte) fields {
	f := fields{values: make(map[uint16][]byte, 8)}
	for t, v := range eachAttribute(b, &f.broken) {
		if _, twice := f.values[t]; twice {
			f.broken = true
		}
		f.values[t] = v
	}
	return f
}

// eachAttribute yields types and values; *broken is set where the bytes are
// no list of attributes.
func eachAttribute(b []byte, broken *bool) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofNlAttr || length > len(b) {
				break
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&attributeType, b[unix.SizeofNlAttr:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
		if len(b) > 0 {
			*broken = true
		}
	}
}

func (f *fields) bytes(t uint16) []byte {
	v := f.values[t]
	delete(f.values, t)
	return v
}

// fixed takes out an attribute of a known size; nil where it is absent.
func (f *fields) fixed(t uint16, size int) []byte {
	v := f.bytes(t)
	if v != nil && len(v) != size {
		f.broken = true
		return nil
	}
	return v
}

// number reads a uint32; one that is absent is 0, as it is to the kernel.
func (f *fields) number(t uint16) uint32 {
	if v := f.fixed(t, 4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (f *fields) number64(t uint16) uint64 {
	if v := f.fixed(t, 8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (f *fields) text(t uint16) string {
	v := f.bytes(t)
	if i := bytes.IndexByte(v, 0); i >= 0 {
		v = v[:i]
	}
	return string(v)
}

// value reads nested data: an NFTA_DATA_VALUE and nothing else.
func (f *fields) value(t uint16) string {
	nested := parseFields(f.bytes(t))
	v := string(nested.bytes(unix.NFTA_DATA_VALUE))
	if !nested.done() {
		f.broken = true
	}
	return v
}

func (f *fields) register(t uint16) bool { return f.number(t) == register }

// done reports whether every attribute was understood. One whose bytes are all
// zero means what its absence means: newer kernels list more of them.
func (f *fields) done() bool {
	for _, v := range f.values {
		if len(bytes.Trim(v, "\x00")) > 0 {
			return false
		}
	}
	return !f.broken
}

const sizeofNfgenmsg = 4 // struct nfgenmsg (linux/netfilter/nfnetlink.h)

// messageFields parses what follows struct nfgenmsg in a message.
func messageFields(m netlink.Message) fields {
	if len(m.Data) < sizeofNfgenmsg {
		return fields{broken: true}
	}
	return parseFields(m.Data[sizeofNfgenmsg:])
}
