package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/cfwall/cfwall/firewall"
)

// sshPort is never guarded: who locks it locks himself out.
const sshPort = 22

func parseTCP(v value) (firewall.PortRange, error) {
	ports, err := parsePorts(v)
	if err != nil || !ports.Contains(sshPort) {
		return ports, err
	}
	cure := "leave it out"
	var others []string
	for _, r := range firewall.SubtractPorts([]firewall.PortRange{ports}, []firewall.PortRange{{First: sshPort, Last: sshPort}}) {
		others = append(others, strconv.Quote(r.String()))
	}
	if len(others) > 0 {
		cure = "write " + strings.Join(others, ", ")
	}
	return ports, problem{"port 22 is SSH: guarding it would lock you out", cure}
}

// parsePorts reads a number, or text such as "8000-8010".
func parsePorts(v value) (firewall.PortRange, error) {
	switch v.kind {
	case unstable.Integer:
		return parsePortNumber(v.text)
	case unstable.String:
		return parsePortRange(v.text)
	}
	return firewall.PortRange{}, problem{v.key + ` takes numbers, and ranges such as "8000-8010"`, ""}
}

// parsePortNumber reads a TOML integer, which may be written as 0x1f90 or 8_080.
func parsePortNumber(s string) (firewall.PortRange, error) {
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil || n < 1 || n > 65535 {
		return firewall.PortRange{}, problem{s + " is not a port: ports are 1 to 65535", ""}
	}
	return firewall.PortRange{First: uint16(n), Last: uint16(n)}, nil
}

func parsePortRange(s string) (firewall.PortRange, error) {
	ports, err := firewall.ParsePortRange(s)
	if err == nil {
		return ports, nil
	}
	if turned, ok := turnedRange(s); ok {
		return ports, problem{fmt.Sprintf("the range %q runs backwards", s), write(turned.String())}
	}
	return ports, problem{err.Error(), ""}
}

// turnedRange reads a range whose last port comes first.
func turnedRange(s string) (firewall.PortRange, bool) {
	last, first, _ := strings.Cut(s, "-")
	ports, err := firewall.ParsePortRange(first + "-" + last)
	return ports, err == nil
}

// parseNetwork reads an address or a network of either family.
func parseNetwork(s string) (netip.Prefix, error) {
	n, err := readNetwork(s)
	switch {
	case err != nil && isName(s):
		return n, problem{fmt.Sprintf("%q is neither an address nor a network", s), cureName}
	case err != nil:
		return n, problem{fmt.Sprintf("%q is neither an address nor a network", s), `such as "192.0.2.7", "198.51.100.0/24" or "2001:db8::/48"`}
	case n.Addr().Is4In6():
		return n, problem{fmt.Sprintf("%q is an IPv4 address written as IPv6", s), writeAs4(n)}
	case n.Bits() == 0:
		return n, problem{fmt.Sprintf("%q is everybody", s), cureOff}
	case n != n.Masked():
		return n, problem{fmt.Sprintf("%q has bits set beyond its /%d", s, n.Bits()),
			fmt.Sprintf("write %q, or %q for the one address", n.Masked(), n.Addr())}
	}
	return n, nil
}

// readNetwork reads what parseNetwork then judges.
func readNetwork(s string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(s); err == nil && address.Zone() == "" {
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

const cureName = "names are not looked up: write addresses"

// isName holds for what is no address and may be the name of a host.
func isName(s string) bool { return isHost(s) && strings.ContainsFunc(s, unicode.IsLetter) }

// writeAs4 suggests the IPv4 form of an IPv4-mapped network, where it has one.
func writeAs4(n netip.Prefix) string {
	as4 := unmap(n)
	if as4.Bits() <= 0 {
		return ""
	}
	return write(networkText(as4.Masked()))
}

// unmap gives an IPv4-mapped network its IPv4 form; it is not valid where the
// network is larger than IPv4.
func unmap(n netip.Prefix) netip.Prefix {
	const mappedBits = 96 // ::ffff:0:0/96, RFC 4291 section 2.5.5.2
	return netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-mappedBits)
}

func networkText(n netip.Prefix) string {
	if n.IsSingleIP() {
		return n.Addr().String()
	}
	return n.String()
}

// maxInterfaceName is IFNAMSIZ of linux/if.h without the final zero, in bytes.
const maxInterfaceName = 15

// parseInterface reads the name of an interface; a "*" at its end stands for
// any ending.
func parseInterface(s string) (string, error) {
	name, isPattern := strings.CutSuffix(s, "*")
	switch {
	case len(s) > maxInterfaceName:
		return "", problem{fmt.Sprintf("interface %q: names have at most %d bytes", s, maxInterfaceName), ""}
	case strings.Contains(name, "*"):
		return "", problem{fmt.Sprintf(`interface %q: a "*" is possible only at the end`, s), ""}
	case s == "", s == ".", s == "..", strings.ContainsFunc(name, notInName):
		return "", problem{fmt.Sprintf("%q cannot be the name of an interface", s), ""}
	case isPattern && couldBeUplink(name):
		return "", problem{fmt.Sprintf("interface %q could be one to the internet, and open everything", s), cureUplink(name)}
	}
	return s, nil
}

// notInName holds for what the kernel refuses in a name (dev_valid_name in
// net/core/dev.c), and for what could not be printed as nft text.
func notInName(r rune) bool {
	return !unicode.IsPrint(r) || strings.ContainsRune(`/: "\`, r)
}

// couldBeUplink reports whether a name that begins like this may be that of
// the interface that leads to the internet, as the kernel, udev, NetworkManager,
// Proxmox, OpenVZ and administrators name them.
func couldBeUplink(beginning string) bool {
	uplinks := []string{
		"eth", "en", "em", "wl", "ww", "wan", "ib", "usb", "ppp", "venet",
		"br", "vmbr", "bond", "team", "vlan",
	}
	return slices.ContainsFunc(uplinks, func(uplink string) bool {
		return strings.HasPrefix(uplink, beginning) || strings.HasPrefix(beginning, uplink)
	})
}

func cureUplink(beginning string) string {
	if strings.HasPrefix(beginning, "br") {
		return "container_bridges = true trusts the bridges of containers; name others in full"
	}
	return "name the interfaces in full"
}

// mergeInterfaces sorts names and leaves out those that a pattern covers.
func mergeInterfaces(names []string) []string {
	sorted := slices.Compact(slices.Sorted(slices.Values(names)))
	return slices.DeleteFunc(slices.Clone(sorted), func(name string) bool {
		return slices.ContainsFunc(sorted, func(other string) bool {
			beginning, isPattern := strings.CutSuffix(other, "*")
			return isPattern && other != name && strings.HasPrefix(name, beginning)
		})
	})
}
