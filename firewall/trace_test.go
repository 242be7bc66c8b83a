package firewall_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
)

func TestDecide(t *testing.T) {
	s := ordinary()
	s.Policy.TCP = append(s.Policy.TCP, firewall.PortRange{First: 40000, Last: 40010})
	s.Policy.Allow = list("192.0.2.0/24 104.16.5.0/24 2001:db8::/32")
	s.Policy.Interfaces = []string{"tailscale0", "wg*"}
	s.Host.Forwards = true
	r := s.Build(t)

	const accept, drop = firewall.Accept, firewall.Drop
	tests := []struct {
		source, protocol string
		port             uint16
		in               string
		want             firewall.VerdictKind
		chain, set       string // what decides
	}{
		{"104.16.1.1", "tcp", 443, "eth0", accept, "cloudflare", "cloudflare4"},
		{"104.16.0.0", "tcp", 443, "eth0", accept, "cloudflare", "cloudflare4"},
		{"104.23.255.255", "tcp", 80, "eth0", accept, "cloudflare", "cloudflare4"},
		{"104.15.255.255", "tcp", 443, "eth0", drop, "closed", ""},
		{"104.24.0.0", "tcp", 443, "eth0", drop, "closed", ""},
		{"2606:4700::1", "tcp", 443, "eth0", accept, "cloudflare", "cloudflare6"},
		{"2606:4701::1", "tcp", 443, "eth0", drop, "closed", ""},
		{"::ffff:104.16.1.1", "tcp", 443, "eth0", drop, "closed", ""}, // IPv6 on the wire
		{"192.0.2.9", "tcp", 443, "eth0", accept, "closed", "allowed4"},
		{"192.0.2.9", "udp", 443, "eth0", accept, "closed", "allowed4"},
		{"2001:db8::9", "udp", 443, "eth0", accept, "closed", "allowed6"},
		{"104.16.1.1", "udp", 443, "eth0", drop, "closed", ""}, // Cloudflare speaks no UDP to origins
		{"104.16.5.1", "udp", 443, "eth0", accept, "closed", "allowed4"},
		{"104.16.5.1", "tcp", 443, "eth0", accept, "cloudflare", "cloudflare4"},
		{"198.51.100.1", "tcp", 22, "eth0", accept, "", ""},
		{"198.51.100.1", "udp", 80, "eth0", accept, "", ""},
		{"198.51.100.1", "tcp", 40010, "eth0", drop, "closed", ""},
		{"198.51.100.1", "tcp", 40011, "eth0", accept, "", ""},
		{"198.51.100.1", "tcp", 443, "lo", accept, "closed", ""},
		{"198.51.100.1", "tcp", 443, "tailscale0", accept, "closed", "trusted_interfaces"},
		{"198.51.100.1", "tcp", 443, "tailscale", drop, "closed", ""},
		{"198.51.100.1", "tcp", 443, "tailscale01", drop, "closed", ""},
		{"198.51.100.1", "tcp", 443, "wg", accept, "closed", ""},
		{"198.51.100.1", "tcp", 443, "wg12", accept, "closed", ""},
		{"198.51.100.1", "tcp", 443, "w", drop, "closed", ""},
		{"198.51.100.1", "tcp", 443, "", drop, "closed", ""},
	}
	for _, tt := range tests {
		p := firewall.Packet{Source: netip.MustParseAddr(tt.source), Protocol: tt.protocol, Port: tt.port, Interface: tt.in, Opening: true}
		got := r.Decide(p)
		if got.Verdict != tt.want || got.Chain != tt.chain || got.Set != tt.set || !got.Certain || got.Guarded != (tt.chain != "") {
			t.Errorf("%+v\ngot  %+v\nwant %+v", p, got, tt)
		}
		if got.Set == "" != (got.Element == firewall.Element{}) || got.Element.Range.IsValid() && !got.Element.Range.Contains(p.Source) {
			t.Errorf("%+v: decided by %+v of set %q", p, got.Element, got.Set)
		}
	}
}

func TestDecideReplies(t *testing.T) {
	s := ordinary()
	s.Policy.TCP = portRanges{{443, 443}, {40000, 40000}}
	r := s.Build(t)
	for _, tt := range []struct {
		port    uint16
		opening bool
		want    firewall.VerdictKind
	}{
		{40000, true, firewall.Drop},
		{40000, false, firewall.Accept},
		{443, true, firewall.Drop},
		{443, false, firewall.Drop},
	} {
		p := firewall.Packet{Source: netip.MustParseAddr("198.51.100.1"), Protocol: "tcp", Port: tt.port, Interface: "eth0", Opening: tt.opening}
		if got := r.Decide(p); got.Verdict != tt.want || !got.Certain {
			t.Errorf("port %d, opening %t: got %+v", tt.port, tt.opening, got)
		}
	}
}

// TestDecideWithoutIPv6: a table of family ip sees no IPv6 packets.
func TestDecideWithoutIPv6(t *testing.T) {
	s := ordinary()
	s.Host.IPv6 = false
	got := s.Build(t).Decide(firewall.Packet{Source: netip.MustParseAddr("2001:db8::1"), Protocol: "tcp", Port: 443, Opening: true})
	if got.Verdict != firewall.Accept || got.Guarded || !got.Certain {
		t.Errorf("got %+v", got)
	}
}

// TestDecideIsUncertain bends a table in ways that Decide cannot follow.
func TestDecideIsUncertain(t *testing.T) {
	first := func(r *firewall.Ruleset, code ...firewall.Expr) {
		r.Chains[0].Rules = slices.Insert(slices.Clone(r.Chains[0].Rules), 0, firewall.Rule{Code: code})
	}
	accept := firewall.Verdict{Kind: firewall.Accept}
	tests := map[string]func(*firewall.Ruleset){
		"an instruction": func(r *firewall.Ruleset) { first(r, firewall.Unknown{Name: "limit"}, accept) },
		"a part of a header": func(r *firewall.Ruleset) { // ip ttl 198
			first(r, firewall.Payload{Base: firewall.NetworkHeader, Offset: 8, Len: 1}, firewall.Equal{Data: "\xc6"}, accept)
		},
		"a property": func(r *firewall.Ruleset) {
			first(r, firewall.Meta{Key: 3}, firewall.Equal{Data: "\x00\x00\x00\x01"}, accept)
		},
		"a verdict": func(r *firewall.Ruleset) { first(r, firewall.Verdict{Kind: -3, Goto: "closed"}) },
		"a short mask": func(r *firewall.Ruleset) {
			first(r, source, firewall.And{Mask: "\xff"}, firewall.Equal{Data: "\xc6"}, accept)
		},
		"a long mask":          func(r *firewall.Ruleset) { first(r, source, firewall.And{Mask: "\xff\xff\xff\xff\xff"}, accept) },
		"constants of no size": func(r *firewall.Ruleset) { first(r, source, firewall.OneOf{}, accept) },
		"a set that is foreign": func(r *firewall.Ruleset) {
			r.Sets = append(r.Sets, firewall.Set{Name: "x", Foreign: "a map"})
			first(r, source, firewall.InSet{Name: "x"}, accept)
		},
		"another policy": func(r *firewall.Ruleset) { r.Chains[0].Hook.Foreign = "policy drop" },
		"another hook": func(r *firewall.Ruleset) {
			r.Chains = append(r.Chains, firewall.Chain{Name: "x", Hook: firewall.Hook{Point: "hook 1"}})
		},
		"a dormant table": func(r *firewall.Ruleset) { r.Flags = 1 },
	}
	p := firewall.Packet{Source: netip.MustParseAddr("198.51.100.1"), Protocol: "tcp", Port: 22, Interface: "eth0", Opening: true}
	for name, bend := range tests {
		t.Run(name, func(t *testing.T) {
			want := ordinary().Build(t)
			r := *clone(&want)
			bend(&r)
			if got := r.Decide(p); got.Certain {
				t.Errorf("is certain: %+v", got)
			}
		})
	}
}

// source loads an IPv4 source address.
var source = firewall.Payload{Base: firewall.NetworkHeader, Offset: 12, Len: 4}

// TestDecideIsCertain follows packets through every ruleset that Build makes:
// what is refused, cut or explained depends on it.
func TestDecideIsCertain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := cases.Situations(time.Now()).Draw(t, "situation")
		r := build(t, s)
		for _, p := range cases.Packets(s.Host.IPv6) {
			if d := r.Decide(p); !d.Certain {
				t.Fatalf("%+v: %+v\n%s", p, d, r)
			}
		}
	})
}
