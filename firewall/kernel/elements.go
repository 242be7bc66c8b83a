package kernel

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

// key is one end of an interval, or a value.
type key struct {
	value   []byte
	end     bool // the first address behind the interval
	timeout time.Duration
}

// listLimit bounds the keys of one message: a nested attribute holds 64 KiB at most.
const listLimit = 60_000

// elementSize bounds an element of ours, encoded: two keys of 16 bytes and a timeout.
const elementSize = 96

func (b *batch) elements(kind int, flags netlink.HeaderFlags, s firewall.Set, elements []firewall.Element) {
	now := time.Now()
	b.keys(kind, flags, s.Name, 0, len(elements), func(list []byte, i int) []byte {
		return appendElement(list, elements[i], now)
	})
}

// keys encodes by hand, straight into messages: a list has thousands of
// elements, and the library makes eight small allocations for each. The
// function appends the keys of one of count elements.
func (b *batch) keys(kind int, flags netlink.HeaderFlags, set string, id uint32, count int, appendTo func(list []byte, i int) []byte) {
	for i := 0; i < count; {
		list := make([]byte, 0, min(listLimit, elementSize*(count-i)))
		for ; i < count && len(list) <= listLimit-elementSize; i++ {
			list = appendTo(list, i)
		}
		b.add(kind, flags, func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_SET_ELEM_LIST_TABLE, firewall.TableName)
			e.String(unix.NFTA_SET_ELEM_LIST_SET, set)
			if id != 0 {
				e.Uint32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
			}
			e.Bytes(unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_LIST_ELEMENTS, list)
		})
	}
}

// appendElement appends the keys of an element: a range is two, its first
// address and the one behind its last. A range that goes to the highest
// address has no end.
func appendElement(b []byte, e firewall.Element, now time.Time) []byte {
	if e.Name != "" {
		return appendKey(b, key{value: []byte(firewall.InterfaceKey(e.Name))})
	}
	start := key{value: e.Range.From().AsSlice()}
	if !e.Expires.IsZero() {
		start.timeout = e.Left(now)
	}
	b = appendKey(b, start)
	if behind := e.Range.To().Next(); behind.IsValid() {
		b = appendKey(b, key{value: behind.AsSlice(), end: true})
	}
	return b
}

// appendKey appends an NFTA_LIST_ELEM; values are multiples of four bytes but
// for ports, which are padded.
func appendKey(b []byte, k key) []byte {
	start := len(b)
	b = appendHeader(b, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, 0)
	padded := (len(k.value) + 3) &^ 3
	b = appendHeader(b, unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_KEY, unix.SizeofNlAttr+padded)
	b = appendHeader(b, unix.NFTA_DATA_VALUE, len(k.value))
	b = append(b, k.value...)
	b = append(b, make([]byte, padded-len(k.value))...)
	if k.end {
		b = appendHeader(b, unix.NFTA_SET_ELEM_FLAGS, 4)
		b = binary.BigEndian.AppendUint32(b, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	if k.timeout > 0 {
		b = appendHeader(b, unix.NFTA_SET_ELEM_TIMEOUT, 8)
		b = binary.BigEndian.AppendUint64(b, uint64(k.timeout.Milliseconds()))
	}
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b
}

func appendHeader(b []byte, kind, length int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+length))
	return binary.NativeEndian.AppendUint16(b, uint16(kind))
}

// parseKeys appends the keys of an NFTA_SET_ELEM_LIST_ELEMENTS, without a map
// for each: there may be hundreds of thousands. It reports whether all were of
// a shape that we make.
func parseKeys(list []byte, keys []key) (_ []key, plain bool) {
	broken, plain := false, true
	for _, element := range eachAttribute(list, &broken) {
		k, ok := parseKey(element)
		plain = plain && ok
		keys = append(keys, k)
	}
	return keys, plain && !broken
}

func parseKey(element []byte) (k key, plain bool) {
	broken, timed := false, false
	plain = true
	for kind, v := range eachAttribute(element, &broken) {
		switch {
		case kind == unix.NFTA_SET_ELEM_KEY:
			for kind, data := range eachAttribute(v, &broken) {
				plain = plain && kind == unix.NFTA_DATA_VALUE
				k.value = data
			}
		case kind == unix.NFTA_SET_ELEM_FLAGS && len(v) == 4:
			flags := binary.BigEndian.Uint32(v)
			k.end = flags&unix.NFT_SET_ELEM_INTERVAL_END != 0
			plain = plain && flags&^unix.NFT_SET_ELEM_INTERVAL_END == 0
		case kind == unix.NFTA_SET_ELEM_TIMEOUT && len(v) == 8:
			timed = binary.BigEndian.Uint64(v) != 0
		case kind == unix.NFTA_SET_ELEM_EXPIRATION && len(v) == 8:
			k.timeout = time.Duration(binary.BigEndian.Uint64(v)) * time.Millisecond
		case kind == unix.NFTA_SET_ELEM_USERDATA: // nft's mark for an open interval, or a comment
		default:
			plain = false
		}
	}
	if timed {
		k.timeout = max(k.timeout, time.Millisecond) // 0 would say that it never expires
	}
	return k, plain && !broken
}

// ranges pairs the keys of an interval set. They come in the kernel's order.
// Where elements may expire, an end can be left over for a while.
func ranges(keys []key, timeouts bool, now time.Time) (elements []firewall.Element, plain bool) {
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(bytes.Compare(a.value, b.value), compareEnds(a, b))
	})
	plain = true
	for i := 0; i < len(keys); i++ {
		if keys[i].end {
			// nft begins the sets that it makes with an end at the lowest address.
			plain = plain && (timeouts || i == 0 && isZero(keys[i].value))
			continue
		}
		var e firewall.Element
		var ok bool
		if i+1 < len(keys) && keys[i+1].end {
			e, ok = interval(keys[i], keys[i+1].value, now)
			i++
		} else {
			e, ok = interval(keys[i], nil, now)
			plain = plain && i == len(keys)-1
		}
		elements, plain = append(elements, e), plain && ok
	}
	return elements, plain
}

// compareEnds puts the end of an interval before the start of the next.
func compareEnds(a, b key) int {
	switch {
	case a.end == b.end:
		return 0
	case a.end:
		return -1
	default:
		return 1
	}
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// interval makes the element from a key to the address before behind; without
// one it goes to the highest address.
func interval(from key, behind []byte, now time.Time) (firewall.Element, bool) {
	first, ok := netip.AddrFromSlice(from.value)
	last := netipx.PrefixLastIP(netip.PrefixFrom(first, 0))
	if behind != nil {
		next, okNext := netip.AddrFromSlice(behind)
		last, ok = next.Prev(), ok && okNext
	}
	e := firewall.Element{Range: netipx.IPRangeFrom(first, last)}
	if from.timeout > 0 {
		e.Expires = now.Add(from.timeout).Round(0)
	}
	return e, ok && e.Range.IsValid()
}

// names makes the elements of a set of interface names.
func names(keys []key) (elements []firewall.Element, plain bool) {
	plain = true
	for _, k := range keys {
		name, padding, _ := bytes.Cut(k.value, []byte{0})
		plain = plain && len(k.value) == 16 && isZero(padding) && !k.end && k.timeout == 0
		elements = append(elements, firewall.Element{Name: string(name)})
	}
	slices.SortFunc(elements, func(a, b firewall.Element) int { return strings.Compare(a.Name, b.Name) })
	return elements, plain
}
