package ipranges

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTunnelEdge counts what the documentation counts: two hosts a region,
// each with ten addresses of either family.
func TestTunnelEdge(t *testing.T) {
	var all List
	for _, region := range TunnelRegions() {
		edge, found := TunnelEdge(region)
		if !found || space(edge.v4) != 20 || space(edge.v6) != 20 {
			t.Errorf("%s: %v, and %v IPv4 and %v IPv6 addresses, want 20 of each", region, found, space(edge.v4), space(edge.v6))
		}
		if !contains(Embedded().List, edge) {
			t.Errorf("%s: outside the published networks:\n%s", region, edge.Minus(Embedded().List))
		}
		all = all.Union(edge)
	}
	if space(all.v4) != 60 || space(all.v6) != 60 {
		t.Errorf("%v IPv4 and %v IPv6 addresses in all, want 60 of each: regions share some", space(all.v4), space(all.v6))
	}
}

func TestTunnelEdgeHosts(t *testing.T) {
	prefix := map[string]string{"global": "", "us": "us-", "fed": "fed-"}
	for _, r := range edgeRegions() {
		var names []string
		for name, addresses := range r.Hosts {
			names = append(names, name)
			if v4 := slices.IndexFunc(addresses, netip.Addr.Is6); v4 != 10 || len(addresses) != 20 {
				t.Errorf("%s: %d addresses, %d of them IPv4 and first", name, len(addresses), v4)
			}
		}
		slices.Sort(names)
		region := prefix[r.Name] + "region"
		if diff := cmp.Diff([]string{region + "1.v2.argotunnel.com", region + "2.v2.argotunnel.com"}, names); diff != "" {
			t.Errorf("%s: hosts (-want +got):\n%s", r.Name, diff)
		}
	}
}

// The last IPv6 address of each host is written ::10, which is the 16th.
func TestTunnelEdgeTenth(t *testing.T) {
	tests := []struct {
		region, addr string
		found        bool
	}{
		{"global", "198.41.192.7", true}, {"global", "198.41.200.233", true}, {"global", "2606:4700:a0::10", true},
		{"global", "2606:4700:a8::a", false}, {"global", "198.41.218.1", false}, {"global", "198.41.192.8", false},
		{"us", "198.41.219.10", true}, {"us", "2606:4700:a9::10", true}, {"us", "2606:4700:a1::a", false},
		{"fed", "162.159.234.1", true}, {"fed", "2a06:98c1:4d::9", true}, {"fed", "2606:4700:f6::10", true}, {"fed", "2606:4700:f6::", false},
	}
	for _, tt := range tests {
		edge, _ := TunnelEdge(tt.region)
		if _, found := edge.Lookup(netip.MustParseAddr(tt.addr)); found != tt.found {
			t.Errorf("%s has %s: %v, want %v", tt.region, tt.addr, found, tt.found)
		}
	}
}

func TestTunnelRegions(t *testing.T) {
	if diff := cmp.Diff([]string{"global", "us", "fed"}, TunnelRegions()); diff != "" {
		t.Errorf("regions (-want +got):\n%s", diff)
	}
	for _, name := range []string{"", "eu", "US", "us-"} {
		if edge, found := TunnelEdge(name); found || edge.Len() != 0 {
			t.Errorf("region %q has %s", name, strings.TrimSpace(edge.String()))
		}
	}
}
