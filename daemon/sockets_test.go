package daemon

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
)

func TestReachable(t *testing.T) {
	p := firewall.Policy{TCP: []firewall.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}}, UDP: []firewall.PortRange{{First: 443, Last: 443}}}
	h := firewall.Host{Ephemeral: []firewall.PortRange{{First: 32768, Last: 60999}}}
	var all []kernel.Listener
	for _, l := range []string{
		"tcp 0.0.0.0:443", "tcp 0.0.0.0:5432", "tcp [::]:22", "tcp 0.0.0.0:22", "tcp 127.0.0.1:6379", "tcp [::1]:6379",
		"udp [::]:443", "udp 0.0.0.0:51820", "udp 0.0.0.0:1900", "tcp 192.0.2.1:40000",
	} {
		protocol, address, _ := strings.Cut(l, " ")
		all = append(all, kernel.Listener{Protocol: protocol, Address: netip.MustParseAddrPort(address)})
	}
	got := reachable(p, all, h)
	want := []string{"22/tcp", "1900/udp", "5432/tcp", "40000/tcp"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
