package daemon

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cfwall/cfwall/firewall"
)

// procNet shows the network namespace of the calling thread.
const procNet = "/proc/thread-self/net"

// A Listener is a socket that waits for clients from outside.
type Listener struct {
	Protocol string // "tcp" or "udp"
	Port     uint16
	inode    string
}

// listeners lists the sockets that can be reached from outside: those that are
// not bound to a loopback address.
func listeners() []Listener {
	var all []Listener
	for file, protocol := range map[string]string{"tcp": "tcp", "tcp6": "tcp", "udp": "udp", "udp6": "udp"} {
		all = append(all, listenersIn(filepath.Join(procNet, file), protocol)...)
	}
	return all
}

// The states in /proc/net: a TCP socket that listens, and a UDP socket that is
// not connected (include/net/tcp_states.h).
var waiting = map[string]string{"tcp": "0A", "udp": "07"}

func listenersIn(file, protocol string) []Listener {
	f, err := os.Open(file)
	if err != nil {
		return nil // no such family on this host
	}
	defer f.Close()
	var found []Listener
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		columns := strings.Fields(lines.Text())
		if len(columns) < 10 || columns[3] != waiting[protocol] {
			continue
		}
		address, ok := parseSocketAddress(columns[1])
		if ok && !address.Addr().IsLoopback() {
			found = append(found, Listener{protocol, address.Port(), columns[9]})
		}
	}
	return found
}

// parseSocketAddress reads "0100007F:0050": words of the address in the
// machine's byte order, of which every supported one is little-endian.
func parseSocketAddress(s string) (netip.AddrPort, bool) {
	address, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(address)
	p, errPort := strconv.ParseUint(port, 16, 16)
	if err != nil || errPort != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}

// guardedSSH lists the ports of SSH that a policy would guard: where a process
// named sshd listens, and the one that the administrator came in by.
func guardedSSH(p firewall.Policy) []uint16 {
	var ports []uint16
	if port, ok := sessionPort(os.Getenv("SSH_CONNECTION")); ok && firewall.PortsContain(p.TCP, port) {
		ports = append(ports, port)
	}
	guarded := slices.DeleteFunc(listeners(), func(l Listener) bool {
		return l.Protocol != "tcp" || !firewall.PortsContain(p.TCP, l.Port)
	})
	if len(guarded) > 0 { // else there is no need to look through all processes
		inodes := socketsOf("sshd")
		for _, l := range guarded {
			if inodes[l.inode] {
				ports = append(ports, l.Port)
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
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

// socketsOf returns the inodes of the sockets that processes of a name hold, as
// far as we may look.
func socketsOf(name string) map[string]bool {
	inodes := make(map[string]bool)
	processes, _ := os.ReadDir("/proc")
	for _, p := range processes {
		dir := filepath.Join("/proc", p.Name())
		b, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || strings.TrimSpace(string(b)) != name {
			continue
		}
		descriptors, _ := filepath.Glob(filepath.Join(dir, "fd", "*"))
		for _, d := range descriptors {
			target, _ := os.Readlink(d)
			if inode, ok := strings.CutPrefix(target, "socket:["); ok {
				inodes[strings.TrimSuffix(inode, "]")] = true
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
// ports that are not guarded.
func reachable(p firewall.Policy, all []Listener, h firewall.Host) []string {
	open := []string{} // in JSON an empty list, not null
	for _, l := range all {
		guarded := p.TCP
		if l.Protocol == "udp" {
			guarded = p.UDP
			// Sockets of clients (DNS, QUIC, NTP) wait on such ports too.
			if firewall.PortsContain(h.Ephemeral, l.Port) {
				continue
			}
		}
		if !firewall.PortsContain(guarded, l.Port) {
			open = append(open, fmt.Sprintf("%d/%s", l.Port, l.Protocol))
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
