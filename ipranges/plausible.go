package ipranges

import (
	"math"
	"net/netip"
)

// Bounds of a believable list. Today (2026-10) there are 15 IPv4 networks, /13
// to /22, with 1,524,736 addresses, and 7 IPv6 networks, /29 and /32, with 14
// times a /32. The bounds hold whatever the last list was and whoever accepts
// a new one, so they are far from today's list and just as far from the
// Internet's size; Book.Offer watches the changes in between.
const (
	// A prefix length that was cut short is at most /3 or /12 (see
	// ParseText); no registry gives one holder anything as wide as these.
	widestV4 = 8
	widestV6 = 19
	// mostNetworks is a bound per family: 30 times today's longer list, and
	// what fits into the body limit many times over.
	mostNetworks = 500
	// mostV4 is 2.7 times today's addresses, 2.3 times the most there ever
	// were (1,786,880, until April 2021), and a thousandth of all IPv4. It
	// makes /10 the widest IPv4 network in effect.
	mostV4 = 1 << 22
	// mostV6 is as much as one network of the widest kind: 585 times today's.
	mostV6 = 1 << (128 - widestV6)
)

// globalUnicast is the only part of IPv6 from which IANA assigns addresses:
// https://www.iana.org/assignments/ipv6-unicast-address-assignments
var globalUnicast = netip.MustParsePrefix("2000::/3")

// specialPurpose holds every block of IANA's special-purpose registries,
// globally reachable or not (none can become Cloudflare's), and multicast:
//
//	https://www.iana.org/assignments/iana-ipv4-special-registry (RFC 6890, RFC 8190)
//	https://www.iana.org/assignments/iana-ipv6-special-registry (updated 2025-10-09)
//	https://www.iana.org/assignments/ipv4-address-space (224.0.0.0/4)
//	https://www.iana.org/assignments/ipv6-address-space (fec0::/10, ff00::/8)
//
// Entries within another entry (such as 192.0.0.8/32 in 192.0.0.0/24, or
// 2001:db8::/32's neighbours in 2001::/23) are covered by it and left out.
var specialPurpose = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network
	netip.MustParsePrefix("10.0.0.0/8"),      // private use
	netip.MustParsePrefix("100.64.0.0/10"),   // shared address space (carrier-grade NAT)
	netip.MustParsePrefix("127.0.0.0/8"),     // loopback
	netip.MustParsePrefix("169.254.0.0/16"),  // link local
	netip.MustParsePrefix("172.16.0.0/12"),   // private use
	netip.MustParsePrefix("192.0.0.0/24"),    // IETF protocol assignments
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation (TEST-NET-1)
	netip.MustParsePrefix("192.31.196.0/24"), // AS112-v4
	netip.MustParsePrefix("192.52.193.0/24"), // AMT
	netip.MustParsePrefix("192.88.99.0/24"),  // 6to4 and 6a44 relay anycast
	netip.MustParsePrefix("192.168.0.0/16"),  // private use
	netip.MustParsePrefix("192.175.48.0/24"), // direct delegation AS112 service
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarking
	netip.MustParsePrefix("198.51.100.0/24"), // documentation (TEST-NET-2)
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation (TEST-NET-3)
	netip.MustParsePrefix("224.0.0.0/4"),     // multicast
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved, limited broadcast

	netip.MustParsePrefix("::/128"),            // unspecified
	netip.MustParsePrefix("::1/128"),           // loopback
	netip.MustParsePrefix("::ffff:0:0/96"),     // IPv4-mapped
	netip.MustParsePrefix("64:ff9b::/96"),      // IPv4-IPv6 translation
	netip.MustParsePrefix("64:ff9b:1::/48"),    // IPv4-IPv6 translation, local use
	netip.MustParsePrefix("100::/64"),          // discard only
	netip.MustParsePrefix("100:0:0:1::/64"),    // dummy prefix
	netip.MustParsePrefix("2001::/23"),         // IETF protocol assignments: Teredo, ORCHID, benchmarking, AMT, AS112
	netip.MustParsePrefix("2001:db8::/32"),     // documentation
	netip.MustParsePrefix("2002::/16"),         // 6to4
	netip.MustParsePrefix("2620:4f:8000::/48"), // direct delegation AS112 service
	netip.MustParsePrefix("3fff::/20"),         // documentation
	netip.MustParsePrefix("5f00::/16"),         // segment routing identifiers
	netip.MustParsePrefix("fc00::/7"),          // unique local
	netip.MustParsePrefix("fe80::/10"),         // link local
	netip.MustParsePrefix("fec0::/10"),         // site local (deprecated)
	netip.MustParsePrefix("ff00::/8"),          // multicast
}

// Plausible says why a list cannot be Cloudflare's, as an *Error, or returns
// nil. A plausible list has networks of both families, all of them globally
// routable, none wider than /8 (IPv4) or /19 (IPv6), at most 500 a family, and
// in all at most 2^22 IPv4 and 2^109 IPv6 addresses.
func Plausible(l List) error {
	if err := bothFamilies(len(l.v4), len(l.v6)); err != nil {
		return err
	}
	if err := plausibleFamily(l.v4, widestV4, mostV4); err != nil {
		return err
	}
	return plausibleFamily(l.v6, widestV6, mostV6)
}

func plausibleFamily(networks []netip.Prefix, widest int, most float64) error {
	if len(networks) > mostNetworks {
		return refuse(ClassTooMany, "%d networks of one family, more than %d", len(networks), mostNetworks)
	}
	for _, n := range networks {
		if n.Bits() < widest {
			return refuse(ClassTooWide, "%s is wider than /%d", n, widest)
		}
		if reason := notRoutable(n); reason != "" {
			return refuse(ClassNotRoutable, "%s is not globally routable: %s", n, reason)
		}
	}
	if addresses := space(networks); addresses > most {
		return refuse(ClassTooMuchSpace, "%.4g addresses of one family, more than %.4g", addresses, most)
	}
	return nil
}

// notRoutable says why no holder can route a network to the whole Internet.
func notRoutable(n netip.Prefix) string {
	for _, special := range specialPurpose {
		if n.Overlaps(special) {
			return special.String() + " is reserved"
		}
	}
	if n.Addr().Is6() && !globalUnicast.Contains(n.Addr()) {
		return "only " + globalUnicast.String() + " is assigned"
	}
	return ""
}

// space is the number of addresses in networks that do not overlap. A float64
// holds 53 bits of it, which is plenty for comparing sizes.
func space(networks []netip.Prefix) float64 {
	var addresses float64
	for _, n := range networks {
		addresses += math.Ldexp(1, n.Addr().BitLen()-n.Bits())
	}
	return addresses
}
