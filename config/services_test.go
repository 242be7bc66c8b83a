package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cfwall/cfwall/firewall"
)

func TestServices(t *testing.T) {
	service := func(protocol string, first, last uint16, peers ...string) firewall.Service {
		return firewall.Service{Protocol: protocol, Ports: firewall.PortRange{First: first, Last: last}, Peers: networks(t, peers...)}
	}
	tests := []struct {
		name, entries string // of inbound.open; those of outbound.allow have "to" for "from"
		want          []firewall.Service
	}{
		{"one port", `"22/tcp"`, []firewall.Service{service("tcp", 22, 22)}},
		{"first and last port", `"1/udp", "65535/tcp"`, []firewall.Service{service("udp", 1, 1), service("tcp", 65535, 65535)}},
		{"range", `"60000-61000/udp"`, []firewall.Service{service("udp", 60000, 61000)}},
		{"every port", `"1-65535/tcp"`, []firewall.Service{service("tcp", 1, 65535)}},
		{"address", `"22/tcp from 192.0.2.7"`, []firewall.Service{service("tcp", 22, 22, "192.0.2.7/32")}},
		{"IPv6 address", `"22/tcp from 2001:DB8::7"`, []firewall.Service{service("tcp", 22, 22, "2001:db8::7/128")}},
		{"networks", `"22-23/tcp from 192.0.2.0/24,2001:db8::/48"`, []firewall.Service{service("tcp", 22, 23, "192.0.2.0/24", "2001:db8::/48")}},
		{"blanks after commas", `"22/tcp from 192.0.2.7, 198.51.100.0/24,   2001:db8::7"`, []firewall.Service{
			service("tcp", 22, 22, "192.0.2.7/32", "198.51.100.0/24", "2001:db8::7/128"),
		}},
		{"networks merged", `"22/tcp from 192.0.2.0/25, 192.0.2.128/25, 192.0.2.7"`, []firewall.Service{service("tcp", 22, 22, "192.0.2.0/24")}},
		{"half of IPv4", `"22/tcp from 0.0.0.0/1"`, []firewall.Service{service("tcp", 22, 22, "0.0.0.0/1")}},
		{"in the order of the file", `"443/tcp", "22/tcp", "22/tcp", "22/udp"`, []firewall.Service{
			service("tcp", 443, 443), service("tcp", 22, 22), service("tcp", 22, 22), service("udp", 22, 22),
		}},
		{"none", ``, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := fmt.Sprintf("inbound.open = [%s]\noutbound.allow = [%s]", tt.entries, strings.ReplaceAll(tt.entries, "from", "to"))
			c, err := Parse(strings.NewReader(file), "config.toml")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, c.Policy.Inbound.Open, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("open (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.want, c.Policy.Outbound.Allow, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("allow (-want +got):\n%s", d)
			}
		})
	}
}
