package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/cfwall/cfwall/ipranges"
)

// networks makes a list of n networks, half of each family, the same every
// time. Each lies in the first half of a slot of its own, so that no two touch
// and none are merged.
func networks(n int) ipranges.List {
	random := rand.New(rand.NewPCG(1, uint64(n)))
	all := make([]netip.Prefix, 0, n)
	for i, slot := range random.Perm(1 << 20)[:n] {
		if i%2 == 0 {
			all = append(all, network4(slot, 21+random.IntN(12)))
		} else {
			all = append(all, network6(slot, 32+random.IntN(33)))
		}
	}
	return ipranges.NewList(all...)
}

// network4 takes the slot's /20 of the whole space.
func network4(slot, bits int) netip.Prefix {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(slot)<<12)
	return netip.PrefixFrom(netip.AddrFrom4(a), bits)
}

// network6 takes the slot's /24 of 2000::/4.
func network6(slot, bits int) netip.Prefix {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], 0x2<<60|uint64(slot)<<40)
	return netip.PrefixFrom(netip.AddrFrom16(a), bits)
}
