package ipranges

import (
	"flag"
	"fmt"
	"net/netip"
	"testing"

	"go4.org/netipx"
	"pgregory.net/rapid"
)

func TestPlausible(t *testing.T) {
	many := func(n int, format string) string {
		var s string
		for i := range n {
			s += fmt.Sprintf(format+" ", i/128, i%128*2) // every second /24, so that none merge
		}
		return s
	}
	tests := []struct {
		name, list string
		class      Class // "" for plausible
	}{
		{"April 2021", "104.16.0.0/12 2606:4700::/32", ""},
		{"one address of each family", "1.1.1.1/32 2606:4700::1111/128", ""},
		{"as wide as the space allows", "104.0.0.0/10 2600:2000::/19", ""},
		{"500 networks", many(500, "104.%d.%d.0/24") + "2606:4700::/32", ""},
		{"beside reserved blocks", "9.255.0.0/16 11.0.0.0/16 100.128.0.0/16 126.255.0.0/16 128.0.0.0/16 172.15.0.0/16 172.32.0.0/16 191.255.0.0/16 193.0.0.0/16 223.255.255.0/24 2001:200::/23 2003::/32 3ffe:ffff::/32", ""},
		{"nothing", "", ClassEmpty},
		{"no IPv4", "2606:4700::/32", ClassOneFamilyMissing},
		{"no IPv6", "104.16.0.0/12", ClassOneFamilyMissing},
		{"everything", "0.0.0.0/0 ::/0", ClassTooWide},
		{"two halves", "0.0.0.0/1 128.0.0.0/1 2606:4700::/32", ClassTooWide},
		{"/7", "104.0.0.0/7 2606:4700::/32", ClassTooWide},
		{"IPv6 /18", "104.16.0.0/12 2600::/18", ClassTooWide},
		{"/8", "104.0.0.0/8 2606:4700::/32", ClassTooMuchSpace},
		{"more than 2^22 addresses", "104.0.0.0/10 1.1.1.1/32 2606:4700::/32", ClassTooMuchSpace},
		{"more than a /19 of IPv6", "104.16.0.0/12 2600:2000::/19 2a00::/64", ClassTooMuchSpace},
		{"501 networks", many(501, "104.%d.%d.0/24") + "2606:4700::/32", ClassTooMany},
		{"around a reserved block", "192.0.0.0/16 2606:4700::/32", ClassNotRoutable},
		{"IPv6 outside 2000::/3", "104.16.0.0/12 1fff::/32", ClassNotRoutable},
		{"IPv6 after 2000::/3", "104.16.0.0/12 4000::/128", ClassNotRoutable},
		{"IPv4-compatible", "104.16.0.0/12 ::104.16.0.0/109", ClassNotRoutable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Plausible(networks(tt.list))
			if tt.class != "" {
				wantClass(t, err, tt.class)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// Every entry of IANA's two registries, with those within other entries, and
// multicast. Only ::ffff:0:0/96 is missing: no List can hold it.
var reserved = func() []netip.Prefix {
	var all []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.0.0/29",
		"192.0.0.8/32", "192.0.0.9/32", "192.0.0.10/32", "192.0.0.170/32", "192.0.0.171/32", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24",
		"192.88.99.0/24", "192.88.99.2/32", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"255.255.255.255/32", "224.0.0.0/4",
		"::1/128", "::/128", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001::/32", "2001:1::1/128",
		"2001:1::2/128", "2001:1::3/128", "2001:2::/48", "2001:3::/32", "2001:4:112::/48", "2001:10::/28", "2001:20::/28", "2001:30::/28",
		"2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "ff00::/8",
	} {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}()

func TestEveryReservedBlockIsRefused(t *testing.T) {
	for _, n := range reserved {
		for _, touching := range []netip.Prefix{n, netip.PrefixFrom(n.Addr(), n.Addr().BitLen()), netip.PrefixFrom(netipx.PrefixLastIP(n), n.Addr().BitLen())} {
			list := networks("104.16.0.0/13 2606:4700::/32").Union(NewList(touching))
			if err := Plausible(list); err == nil {
				t.Errorf("%v is plausible (%v)", touching, n)
			}
		}
	}
}

// anyNetwork draws networks of which many are near or in reserved blocks, and
// many are ordinary, so that both verdicts are frequent.
func anyNetwork() *rapid.Generator[netip.Prefix] {
	anchors := append(Embedded().List.Networks(), reserved...)
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		anchor := anchors[rapid.IntRange(0, len(anchors)-1).Draw(t, "anchor")]
		from, to := anchor.Addr().Prev(), netipx.PrefixLastIP(anchor)
		addr := rapid.SampledFrom([]netip.Addr{anchor.Addr(), from, to, to.Next()}).Draw(t, "address")
		if !addr.IsValid() {
			addr = anchor.Addr()
		}
		bits := rapid.IntRange(addr.BitLen()/8, addr.BitLen()).Draw(t, "bits")
		return netip.PrefixFrom(addr, bits).Masked()
	})
}

// Of 100,000 lists, none that is plausible covers a reserved address or is
// larger than it may be. The oracle asks netipx and netip, not the code.
func TestNoPlausibleListIsPoison(t *testing.T) {
	checks := flag.Lookup("rapid.checks")
	usual := checks.Value.String()
	if err := checks.Value.Set("100000"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = checks.Value.Set(usual) }()
	var b netipx.IPSetBuilder
	for _, n := range reserved {
		b.AddPrefix(n)
	}
	never, err := b.IPSet()
	if err != nil {
		t.Fatal(err)
	}
	base := networks("104.16.0.0/13 2606:4700::/32")
	lists := rapid.SliceOfN(anyNetwork(), 1, 4)
	all, plausible := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		list := base.Union(NewList(lists.Draw(t, "networks")...))
		all++
		if Plausible(list) != nil {
			return
		}
		plausible++
		var v4 float64
		for _, n := range list.Networks() {
			first := n.Addr()
			if never.OverlapsPrefix(n) || first.IsPrivate() || !first.IsGlobalUnicast() || first.Is6() && first.As16()[0]>>5 != 1 {
				t.Fatalf("%v is plausible with %v", list, n)
			}
			if first.Is4() {
				v4 += float64(uint64(1) << (32 - n.Bits()))
			}
		}
		if v4 > 1<<22 {
			t.Fatalf("%v is plausible with %v addresses", list, v4)
		}
	})
	t.Logf("%d of %d lists are plausible", plausible, all)
	if plausible < all/50 || plausible > all*49/50 {
		t.Errorf("%d of %d lists are plausible: the generator proves nothing", plausible, all)
	}
}
