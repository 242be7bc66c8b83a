package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

// ReadHost gathers the facts about this machine that the ruleset depends on.
func ReadHost() (firewall.Host, error) {
	bridges, err := bridges()
	if err != nil {
		return firewall.Host{}, err
	}
	ephemeral, err := ephemeralPorts()
	if err != nil {
		return firewall.Host{}, err
	}
	routes := anyOn(routing)
	return firewall.Host{
		IPv6:      hasIPv6(),
		Forwards:  routes || len(bridges) > 0, // br_netfilter may be switched on without a word
		Routes:    routes,
		Bridges:   slices.DeleteFunc(bridges, func(name string) bool { return !engineBridge.MatchString(name) }),
		Ephemeral: ephemeral,
	}, nil
}

// procNet shows the network namespace of the calling thread.
const procNet = "/proc/thread-self/net"

// hasIPv6 reports whether the kernel has IPv6. It does unless its table of
// addresses is missing while others are there: in doubt both families are guarded.
func hasIPv6() bool {
	_, errIPv6 := os.Stat(procNet + "/if_inet6")
	_, errNet := os.Stat(procNet + "/dev")
	return !errors.Is(errIPv6, fs.ErrNotExist) || errNet != nil
}

// routing are the switches any of which makes the host route.
var routing = []string{"/proc/sys/net/ipv4/conf/*/forwarding", "/proc/sys/net/ipv6/conf/*/forwarding"}

func anyOn(patterns []string) bool {
	for _, pattern := range patterns {
		files, _ := filepath.Glob(pattern)
		if slices.ContainsFunc(files, isOn) {
			return true
		}
	}
	return false
}

func isOn(file string) bool {
	b, err := os.ReadFile(file)
	return err == nil && strings.TrimSpace(string(b)) != "0"
}

// defaultEphemeral is the kernel's default (ip-sysctl), for where /proc/sys is hidden.
var defaultEphemeral = firewall.PortRange{First: 32768, Last: 60999}

// ephemeralPorts is net.ipv4.ip_local_port_range, which is IPv6's too, without
// net.ipv4.ip_local_reserved_ports.
func ephemeralPorts() ([]firewall.PortRange, error) {
	const dir = "/proc/sys/net/ipv4/"
	b, err := os.ReadFile(dir + "ip_local_port_range")
	if err != nil {
		return []firewall.PortRange{defaultEphemeral}, nil
	}
	ports, err := firewall.ParsePortRange(strings.Join(strings.Fields(string(b)), "-"))
	if err != nil {
		return nil, fmt.Errorf("reading net.ipv4.ip_local_port_range: %w", err)
	}
	b, err = os.ReadFile(dir + "ip_local_reserved_ports")
	if err != nil {
		return []firewall.PortRange{ports}, nil
	}
	var reserved []firewall.PortRange
	for word := range strings.SplitSeq(strings.TrimSpace(string(b)), ",") {
		if r, err := firewall.ParsePortRange(word); err == nil {
			reserved = append(reserved, r)
		}
	}
	return firewall.SubtractPorts([]firewall.PortRange{ports}, reserved), nil
}

// engineBridge matches the names that Docker, Podman and CNI give to bridges.
// It matches no name that an administrator would give to a bridge of their own.
var engineBridge = regexp.MustCompile(`^(docker0|docker_gwbridge|br-[0-9a-f]{12}|(cni-)?podman[0-9]+|cni[0-9]+)$`)

// bridges lists the bridges, sorted.
func bridges() ([]string, error) {
	links, err := ask(unix.NETLINK_ROUTE, netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, unix.SizeofIfInfomsg),
	})
	if err != nil {
		return nil, classify("listing interfaces", err)
	}
	var names []string
	for _, m := range links {
		if name, kind := parseLink(m.Data); kind == "bridge" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// parseLink reads the name and the kind from struct ifinfomsg and its attributes.
func parseLink(data []byte) (name, kind string) {
	if len(data) < unix.SizeofIfInfomsg {
		return "", ""
	}
	f := parseFields(data[unix.SizeofIfInfomsg:])
	info := parseFields(f.bytes(unix.IFLA_LINKINFO))
	return f.text(unix.IFLA_IFNAME), info.text(unix.IFLA_INFO_KIND)
}
