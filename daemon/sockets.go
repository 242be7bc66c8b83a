package daemon

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
)

// reachable says in words what the world can still reach: the listeners on
// ports that no rule closes, but for those on loopback addresses.
func reachable(p firewall.Policy, all []kernel.Listener, h firewall.Host) []string {
	open := []string{}
	for _, l := range all {
		port, guarded := l.Address.Port(), p.TCP
		if l.Protocol == "udp" {
			guarded = p.UDP
			// Sockets of clients (DNS, QUIC, NTP) wait on such ports too.
			if firewall.PortsContain(h.Ephemeral, port) {
				continue
			}
		}
		if l.Address.Addr().IsLoopback() || firewall.PortsContain(guarded, port) {
			continue
		}
		if who, ok := openTo(p, l); ok {
			open = append(open, fmt.Sprintf("%d/%s%s", port, l.Protocol, who))
		}
	}
	slices.SortFunc(open, comparePorts)
	return slices.Compact(open)
}

// openTo says who reaches a listener that is not guarded: "" is everybody.
func openTo(p firewall.Policy, l kernel.Listener) (who string, ok bool) {
	if !p.Inbound.Drop {
		return "", true
	}
	for _, s := range p.Inbound.Open {
		if s.Protocol != l.Protocol || !s.Ports.Contains(l.Address.Port()) {
			continue
		}
		if s.Peers.Len() == 0 {
			return "", true
		}
		_, peers, _ := strings.Cut(s.Text("from"), " ")
		who, ok = who+" "+peers, true
	}
	return who, ok
}

func comparePorts(a, b string) int {
	x, _ := strconv.Atoi(strings.SplitN(a, "/", 2)[0])
	y, _ := strconv.Atoi(strings.SplitN(b, "/", 2)[0])
	if x != y {
		return x - y
	}
	return strings.Compare(a, b)
}
