package kernel

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

// A Remembered is another host that rules have noted, and the port that packets
// from there or to there went to.
type Remembered struct {
	Protocol string // "tcp" or "udp"
	Peer     netip.AddrPort
	Packets  uint64    // since the entry was made
	Last     time.Time // when the last packet came
}

// Remembered lists what rules have put into sets of ours, the latest first. A
// set or table that does not exist holds nothing.
func (k *Kernel) Remembered(ctx context.Context, family firewall.Family, sets ...string) ([]Remembered, error) {
	c, err := k.open(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r := reader{conn: c, family: familyNumber(family)}
	var all []Remembered
	now := time.Now()
	for _, set := range sets {
		named := func(e *netlink.AttributeEncoder) { e.String(unix.NFTA_SET_ELEM_LIST_SET, set) }
		err := r.dump(unix.NFT_MSG_GETSETELEM, named, func(f fields) {
			var broken bool
			for _, element := range eachAttribute(f.bytes(unix.NFTA_SET_ELEM_LIST_ELEMENTS), &broken) {
				if m, ok := parseRemembered(element, now); ok {
					all = append(all, m)
				}
			}
		})
		// Rules fill the set meanwhile: what was read until then is as good as any.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, errInterrupted) {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b Remembered) int {
		return cmp.Or(b.Last.Compare(a.Last), a.Peer.Compare(b.Peer), cmp.Compare(a.Protocol, b.Protocol))
	})
	return all, nil
}

// parseRemembered reads an element whose key is an address, a protocol and a
// port, each filled up to whole words.
func parseRemembered(element []byte, now time.Time) (Remembered, bool) {
	f := parseFields(element)
	key := f.value(unix.NFTA_SET_ELEM_KEY)
	if len(key) != 4+8 && len(key) != 16+8 {
		return Remembered{}, false
	}
	size := len(key) - 8
	a, _ := netip.AddrFromSlice([]byte(key[:size]))
	m := Remembered{
		Protocol: "tcp",
		Peer:     netip.AddrPortFrom(a, binary.BigEndian.Uint16([]byte(key[size+4:]))),
		Last:     now,
	}
	if key[size] == unix.IPPROTO_UDP {
		m.Protocol = "udp"
	}
	if left := f.number64(unix.NFTA_SET_ELEM_EXPIRATION); left > 0 {
		m.Last = now.Add(time.Duration(left)*time.Millisecond - firewall.RememberedFor)
	}
	counter := parseFields(f.bytes(unix.NFTA_SET_ELEM_EXPR))
	values := parseFields(counter.bytes(unix.NFTA_EXPR_DATA))
	m.Packets = values.number64(unix.NFTA_COUNTER_PACKETS)
	return m, true
}
