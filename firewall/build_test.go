package firewall_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"
	"pgregory.net/rapid"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
	"github.com/cfwall/cfwall/ipranges"
)

// sameValues compares the comparable types of netip and netipx by ==.
var sameValues = cmp.Options{
	cmp.Comparer(func(a, b netipx.IPRange) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

// list makes a List of words.
func list(networks string) ipranges.List {
	var all []netip.Prefix
	for word := range strings.FieldsSeq(networks) {
		all = append(all, netip.MustParsePrefix(word))
	}
	return ipranges.NewList(all...)
}

// ordinary guards what the default config does.
func ordinary() cases.Situation {
	return cases.Situation{
		Policy: firewall.Policy{
			Mode: firewall.ModeCloudflare,
			TCP:  portRanges{{80, 80}, {443, 443}},
			UDP:  portRanges{{443, 443}},
		},
		Lists: firewall.Lists{Cloudflare: list("104.16.0.0/13 2606:4700::/32")},
		Host:  cases.Ordinary(),
	}
}

func TestBuildErrors(t *testing.T) {
	tests := map[string]struct {
		change func(*cases.Situation)
		want   error
	}{
		"ordinary":                 {func(*cases.Situation) {}, nil},
		"no list":                  {func(s *cases.Situation) { s.Lists.Cloudflare = ipranges.List{} }, firewall.ErrNoList},
		"no IPv4 networks":         {func(s *cases.Situation) { s.Lists.Cloudflare = list("2606:4700::/32") }, firewall.ErrNoList},
		"no IPv6 networks":         {func(s *cases.Situation) { s.Lists.Cloudflare = list("104.16.0.0/13") }, firewall.ErrNoList},
		"IPv6 neither here nor in": {func(s *cases.Situation) { s.Lists.Cloudflare, s.Host.IPv6 = list("104.16.0.0/13"), false }, nil},
		"allowed instead of listed": {func(s *cases.Situation) {
			s.Lists.Cloudflare, s.Policy.Allow = list("104.16.0.0/13"), list("2606:4700::/32")
		}, firewall.ErrNoList},
		"UDP in the ephemeral range":       {func(s *cases.Situation) { s.Policy.UDP = portRanges{{40000, 40000}} }, firewall.ErrEphemeralUDP},
		"UDP range touching the ephemeral": {func(s *cases.Situation) { s.Policy.UDP = portRanges{{32000, 32768}} }, firewall.ErrEphemeralUDP},
		"UDP range beside the ephemeral":   {func(s *cases.Situation) { s.Policy.UDP = portRanges{{32000, 32767}, {61000, 65535}} }, nil},
		"UDP range around the ephemeral":   {func(s *cases.Situation) { s.Policy.UDP = portRanges{{1, 65535}} }, firewall.ErrEphemeralUDP},
		"UDP port reserved": {func(s *cases.Situation) {
			s.Policy.UDP, s.Host.Ephemeral = portRanges{{40000, 40000}}, portRanges{{32768, 39999}, {40001, 60999}}
		}, nil},
		"TCP in the ephemeral range is all": {func(s *cases.Situation) { s.Policy.TCP = portRanges{{40000, 40000}} }, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := ordinary()
			tt.change(&s)
			r, err := firewall.Build(s.Policy, s.Lists, s.Host)
			if !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) {
				t.Fatalf("error: got %v, want %v", err, tt.want)
			}
			if err != nil && len(r.Chains) > 0 {
				t.Error("made a ruleset beside the error")
			}
		})
	}
}

func TestEphemeralErrorNamesThePorts(t *testing.T) {
	s := ordinary()
	s.Policy.UDP = portRanges{{443, 443}, {32000, 33000}, {50000, 50000}}
	_, err := firewall.Build(s.Policy, s.Lists, s.Host)
	if err == nil || !strings.HasPrefix(err.Error(), "udp 32768-33000,50000:") {
		t.Errorf("got %v", err)
	}
}

func TestBuildIsDeterministic(t *testing.T) {
	now := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		s := cases.Situations(now).Draw(t, "situation")
		first, err := firewall.Build(s.Policy, s.Lists, s.Host)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			again, _ := firewall.Build(s.Policy, s.Lists, s.Host)
			if diff := cmp.Diff(first, again, sameValues); diff != "" {
				t.Fatalf("another ruleset of the same arguments:\n%s", diff)
			}
		}
	})
}

func TestBuildKeepsItsArguments(t *testing.T) {
	now := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		s := cases.Situations(now).Draw(t, "situation")
		before := s
		before.Policy.TCP, before.Policy.UDP = slices.Clone(s.Policy.TCP), slices.Clone(s.Policy.UDP)
		before.Policy.Interfaces, before.Host.Bridges = slices.Clone(s.Policy.Interfaces), slices.Clone(s.Host.Bridges)
		before.Lists.Temporary = slices.Clone(s.Lists.Temporary)
		if _, err := firewall.Build(s.Policy, s.Lists, s.Host); err != nil {
			t.Fatal(err)
		}
		lists := cmp.Comparer(ipranges.List.Equal)
		if diff := cmp.Diff(before, s, lists, sameValues); diff != "" {
			t.Fatalf("changed its arguments:\n%s", diff)
		}
	})
}

func TestTemporaryEntries(t *testing.T) {
	now := time.Now()
	entry := func(network string, hours int) firewall.Temporary {
		return firewall.Temporary{Network: netip.MustParsePrefix(network), Expires: now.Add(time.Duration(hours) * time.Hour)}
	}
	tests := map[string]struct {
		allow string
		given []firewall.Temporary
		want  map[string]int // range to hours; 0: for ever
	}{
		"none":                  {"", nil, map[string]int{}},
		"one":                   {"", []firewall.Temporary{entry("192.0.2.1/32", 1)}, map[string]int{"192.0.2.1-192.0.2.1": 1}},
		"twice, longest wins":   {"", []firewall.Temporary{entry("192.0.2.0/24", 1), entry("192.0.2.0/24", 2)}, map[string]int{"192.0.2.0-192.0.2.255": 2}},
		"wide and long":         {"", []firewall.Temporary{entry("192.0.2.9/32", 1), entry("192.0.2.0/24", 2)}, map[string]int{"192.0.2.0-192.0.2.255": 2}},
		"narrow and long":       {"", []firewall.Temporary{entry("192.0.2.0/24", 1), entry("192.0.2.128/25", 2)}, map[string]int{"192.0.2.0-192.0.2.127": 1, "192.0.2.128-192.0.2.255": 2}},
		"permanent covers it":   {"192.0.2.0/24", []firewall.Temporary{entry("192.0.2.9/32", 1)}, map[string]int{"192.0.2.0-192.0.2.255": 0}},
		"permanent inside":      {"192.0.2.0/25", []firewall.Temporary{entry("192.0.2.0/24", 1)}, map[string]int{"192.0.2.0-192.0.2.127": 0, "192.0.2.128-192.0.2.255": 1}},
		"permanent beside":      {"192.0.2.0/25", []firewall.Temporary{entry("192.0.2.128/25", 1)}, map[string]int{"192.0.2.0-192.0.2.127": 0, "192.0.2.128-192.0.2.255": 1}},
		"same end, overlapping": {"", []firewall.Temporary{entry("192.0.2.0/24", 1), entry("192.0.2.0/25", 1)}, map[string]int{"192.0.2.0-192.0.2.255": 1}},
		"IPv4 stays in its set": {"2001:db8::/32", []firewall.Temporary{entry("2001:db8:1::/48", 1), entry("192.0.2.1/32", 1)}, map[string]int{"192.0.2.1-192.0.2.1": 1}},
		"to the last address":   {"", []firewall.Temporary{entry("255.255.255.254/31", 1), entry("255.255.255.255/32", 2)}, map[string]int{"255.255.255.254-255.255.255.254": 1, "255.255.255.255-255.255.255.255": 2}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := ordinary()
			s.Policy.Allow, s.Lists.Temporary = list(tt.allow), tt.given
			set, _ := s.Build(t).Set("allowed4")
			got := map[string]int{}
			for _, e := range set.Elements {
				got[e.Range.String()] = 0
				if !e.Expires.IsZero() {
					got[e.Range.String()] = int(e.Expires.Sub(now).Hours())
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("elements (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAllowedAddresses asks of every address how long it is allowed, and
// compares with the entries one by one.
func TestAllowedAddresses(t *testing.T) {
	now := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		s := cases.Situations(now).Draw(t, "situation")
		r, err := firewall.Build(s.Policy, s.Lists, s.Host)
		if err != nil {
			t.Fatal(err)
		}
		allowed4, _ := r.Set("allowed4")
		allowed6, _ := r.Set("allowed6")
		for _, p := range cases.Packets(s.Host.IPv6) {
			holding := slices.DeleteFunc(slices.Concat(allowed4.Elements, allowed6.Elements), func(e firewall.Element) bool { return !e.Range.Contains(p.Source) })
			if len(holding) > 1 {
				t.Fatalf("%s is in %v", p.Source, holding)
			}
			want, expires := allowedUntil(s, p.Source)
			if want != (len(holding) == 1) {
				t.Fatalf("%s: allowed %t, elements %v", p.Source, want, holding)
			}
			if want && !holding[0].Expires.Equal(expires) {
				t.Fatalf("%s: until %v, want %v", p.Source, holding[0].Expires, expires)
			}
		}
	})
}

func allowedUntil(s cases.Situation, a netip.Addr) (allowed bool, expires time.Time) {
	if _, permanent := s.Policy.Allow.Lookup(a); permanent {
		return true, time.Time{}
	}
	for _, e := range s.Lists.Temporary {
		if e.Network.Contains(a) && e.Expires.After(expires) {
			allowed, expires = true, e.Expires
		}
	}
	return allowed, expires
}

// TestRulesThatCannotMatter looks for rules that are there only with what
// makes them matter.
func TestRulesThatCannotMatter(t *testing.T) {
	tests := []struct {
		name   string
		change func(*cases.Situation)
		rule   string
	}{
		{"an IPv4 allow entry", func(s *cases.Situation) { s.Policy.Allow = list("192.0.2.7/32") }, "ip saddr @allowed4 "},
		{"an IPv6 allow entry", func(s *cases.Situation) { s.Policy.Allow = list("2001:db8::7/128") }, "ip6 saddr @allowed6 "},
		{"a temporary entry", func(s *cases.Situation) {
			s.Lists.Temporary = []firewall.Temporary{{Network: netip.MustParsePrefix("192.0.2.7/32"), Expires: time.Now().Add(time.Hour)}}
		}, "ip saddr @allowed4 "},
		{"an interface", func(s *cases.Situation) { s.Policy.Interfaces = []string{"wg0"} }, "iifname @trusted_interfaces "},
		{"a pattern", func(s *cases.Situation) { s.Policy.Interfaces = []string{"wg*"} }, `iifname "wg*" `},
		{"a bridge", func(s *cases.Situation) { s.Policy.ContainerBridges, s.Host.Bridges = true, []string{"docker0"} }, "iifname @trusted_interfaces "},
		{"forwarding", func(s *cases.Situation) { s.Host.Forwards = true }, "fib daddr type "},
		{"an ephemeral TCP port", func(s *cases.Situation) { s.Policy.TCP = portRanges{{40000, 40000}} }, "tcp flags "},
		{"a guarded UDP port", func(s *cases.Situation) { s.Policy.UDP = portRanges{{443, 443}} }, "udp dport "},
		{"a guarded TCP port", func(s *cases.Situation) { s.Policy.TCP = portRanges{{443, 443}} }, "tcp dport "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := ordinary()
			s.Policy.TCP, s.Policy.UDP = nil, nil
			if strings.Contains(rules(s.Build(t)), tt.rule) {
				t.Errorf("%q is there without %s", tt.rule, tt.name)
			}
			tt.change(&s)
			if !strings.Contains(rules(s.Build(t)), tt.rule) {
				t.Errorf("%q is missing with %s", tt.rule, tt.name)
			}
		})
	}
}

func TestBridgesAreNotTrustedUnlessWanted(t *testing.T) {
	s := ordinary()
	s.Host.Bridges = []string{"docker0"}
	if set, _ := s.Build(t).Set("trusted_interfaces"); len(set.Elements) > 0 {
		t.Errorf("trusts %v", set.Elements)
	}
}

// rules prints the rules of all chains.
func rules(r firewall.Ruleset) string {
	var b strings.Builder
	for _, c := range r.Chains {
		for _, rule := range c.Rules {
			b.WriteString(rule.String() + "\n")
		}
	}
	return b.String()
}

// Ports that are named twice make the same ruleset as ports named once.
func TestPortsAreMerged(t *testing.T) {
	s := ordinary()
	s.Policy.TCP = []firewall.PortRange{{First: 443, Last: 443}, {First: 80, Last: 80}}
	want := s.Build(t)
	s.Policy.TCP = []firewall.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}, {First: 80, Last: 80}}
	if got := s.Build(t); got.String() != want.String() {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
