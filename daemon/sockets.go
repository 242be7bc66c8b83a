package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
)

// guardedSSH lists the ports of SSH that a policy would guard: where a server of
// root's listens, and the one that the administrator came in by. A process of
// another user may call itself sshd, and must not open a port by that.
func guardedSSH(p firewall.Policy) ([]uint16, error) {
	var ports []uint16
	if port, ok := sessionPort(os.Getenv("SSH_CONNECTION")); ok && firewall.PortsContain(p.TCP, port) {
		ports = append(ports, port)
	}
	listeners, err := kernel.Listeners()
	if err != nil {
		return ports, fmt.Errorf("finding out where SSH listens: %w", err)
	}
	guarded := slices.DeleteFunc(listeners, func(l kernel.Listener) bool {
		return l.Protocol != "tcp" || l.UID != 0 || !firewall.PortsContain(p.TCP, l.Address.Port())
	})
	if len(guarded) > 0 { // else there is no need to look through all processes
		inodes := socketsOf(sshServers)
		for _, l := range guarded {
			if inodes[l.Inode] {
				ports = append(ports, l.Address.Port())
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports), nil
}

// sessionPort is the server's port in "client-address client-port server-address server-port".
func sessionPort(connection string) (uint16, bool) {
	words := strings.Fields(connection)
	if len(words) != 4 {
		return 0, false
	}
	port, err := strconv.ParseUint(words[3], 10, 16)
	return uint16(port), err == nil && port != 0
}

// sshServers are the names of the programs that serve SSH.
var sshServers = []string{"sshd", "dropbear"}

// socketsOf returns the inodes of the sockets that processes of some names
// hold, as far as we may look.
func socketsOf(names []string) map[uint32]bool {
	inodes := make(map[uint32]bool)
	processes, _ := os.ReadDir("/proc")
	for _, p := range processes {
		dir := filepath.Join("/proc", p.Name())
		b, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || !slices.Contains(names, strings.TrimSpace(string(b))) {
			continue
		}
		descriptors, _ := filepath.Glob(filepath.Join(dir, "fd", "*"))
		for _, d := range descriptors {
			target, _ := os.Readlink(d)
			var inode uint32
			if n, _ := fmt.Sscanf(target, "socket:[%d]", &inode); n == 1 {
				inodes[inode] = true
			}
		}
	}
	return inodes
}

// withoutPorts leaves ports open that a policy would guard.
func withoutPorts(p firewall.Policy, open []uint16) firewall.Policy {
	for _, port := range open {
		p.TCP = firewall.SubtractPorts(p.TCP, []firewall.PortRange{{First: port, Last: port}})
	}
	return p
}

// reachable says in words what the world can still reach: the listeners on
// ports that are not guarded, but for those on loopback addresses.
func reachable(p firewall.Policy, all []kernel.Listener, h firewall.Host) []string {
	var open []string
	for _, l := range all {
		port, guarded := l.Address.Port(), p.TCP
		if l.Protocol == "udp" {
			guarded = p.UDP
			// Sockets of clients (DNS, QUIC, NTP) wait on such ports too.
			if firewall.PortsContain(h.Ephemeral, port) {
				continue
			}
		}
		if !l.Address.Addr().IsLoopback() && !firewall.PortsContain(guarded, port) {
			open = append(open, fmt.Sprintf("%d/%s", port, l.Protocol))
		}
	}
	slices.SortFunc(open, comparePorts)
	return slices.Compact(open)
}

func comparePorts(a, b string) int {
	x, _ := strconv.Atoi(strings.SplitN(a, "/", 2)[0])
	y, _ := strconv.Atoi(strings.SplitN(b, "/", 2)[0])
	if x != y {
		return x - y
	}
	return strings.Compare(a, b)
}
