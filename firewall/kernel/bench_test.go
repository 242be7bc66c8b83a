package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
	"github.com/cfwall/cfwall/ipranges"
)

// benchList makes n networks that do not touch, half of them IPv6; 22 are
// what Cloudflare publishes.
func benchList(b *testing.B, n int) ipranges.List {
	if n == 22 {
		return cases.Published(b)
	}
	networks := make([]netip.Prefix, n)
	for i := range networks {
		number := uint32(1<<24 + i<<9)
		v4 := binary.BigEndian.AppendUint32(nil, number)
		if i%2 == 0 {
			networks[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte(v4)), 24)
			continue
		}
		v6 := append([]byte{0x20, 0x01, 0x0d, 0xb8}, append(v4, make([]byte, 8)...)...)
		networks[i] = netip.PrefixFrom(netip.AddrFrom16([16]byte(v6)), 56)
	}
	return ipranges.NewList(networks...)
}

func benchmark(b *testing.B, sizes []int, run func(b *testing.B, h host, s cases.Situation)) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("networks=%d", n), func(b *testing.B) {
			s := cases.Load(b, "default").Situation
			s.Lists.Cloudflare = benchList(b, n)
			b.ReportAllocs()
			run(b, newHost(b), s)
		})
	}
}

// BenchmarkNothingToDo is a pass over a table that is as it should be.
func BenchmarkNothingToDo(b *testing.B) {
	benchmark(b, []int{22, 1_000, 10_000, 100_000}, func(b *testing.B, h host, s cases.Situation) {
		want := s.Build(b)
		h.enforce(b, want)
		for b.Loop() {
			if !firewall.MakePlan(h.read(b, want.Family), want).Empty() {
				b.Fatal("there is something to do")
			}
		}
	})
}

// BenchmarkOneNetwork is a pass that adds a network, and one that takes it away.
func BenchmarkOneNetwork(b *testing.B) {
	benchmark(b, []int{22, 1_000, 10_000}, func(b *testing.B, h host, s cases.Situation) {
		lists := []ipranges.List{s.Lists.Cloudflare.Union(list("198.51.100.0/24")), s.Lists.Cloudflare}
		h.enforce(b, s.Build(b))
		for i := 0; b.Loop(); i++ {
			s.Lists.Cloudflare = lists[i%2]
			want := s.Build(b)
			if err := h.apply(firewall.MakePlan(h.read(b, want.Family), want)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCreate is the first pass on a host without a table.
func BenchmarkCreate(b *testing.B) {
	benchmark(b, []int{22, 1_000, 10_000, 100_000}, func(b *testing.B, h host, s cases.Situation) {
		want := s.Build(b)
		for b.Loop() {
			if err := h.apply(firewall.MakePlan(h.read(b, want.Family), want)); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			h.remove(b, want.Family)
			b.StartTimer()
		}
	})
}
