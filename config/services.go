package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/ipranges"
)

// The word before the networks of a service.
const (
	inboundWord  = "from"
	outboundWord = "to"
)

// service makes a reader of entries such as "22/tcp" and
// "8000-8010/udp from 192.0.2.7, 2001:db8::/48".
func service(word string) func(value) (firewall.Service, error) {
	return func(v value) (firewall.Service, error) {
		switch v.kind {
		case unstable.String, unstable.Integer: // a number only wants its protocol
			return parseService(v.text, word)
		}
		return firewall.Service{}, problem{v.key + " takes text", `such as "22/tcp"`}
	}
}

func parseService(s, word string) (firewall.Service, error) {
	got, err := readService(s, word)
	if err == nil {
		return got, nil
	}
	cure := meantService(s, word)
	if p, ok := errors.AsType[problem](err); ok {
		cure = cmp.Or(cure, p.suggestion)
	}
	form := fmt.Sprintf("PORT[-PORT]/tcp|udp[ %s CIDR[,CIDR...]]", word)
	return got, problem{fmt.Sprintf("entry %q: %s; the form is %s", s, err, form), cure}
}

func readService(s, word string) (firewall.Service, error) {
	ports, rest, hasMore := strings.Cut(s, " ")
	got, err := readPorts(ports)
	if err != nil || !hasMore {
		return got, err
	}
	peers, found := strings.CutPrefix(rest, word+" ")
	switch {
	case strings.TrimSpace(rest) == word:
		return got, problem{fmt.Sprintf("nothing follows %q", word), leaveOut(word)}
	case !found:
		return got, problem{fmt.Sprintf("%q does not begin with %q", rest, word), ""}
	}
	got.Peers, err = readPeers(peers, word)
	return got, err
}

// readPorts reads "22/tcp" or "8000-8010/udp".
func readPorts(s string) (firewall.Service, error) {
	ports, protocol, found := strings.Cut(s, "/")
	switch {
	case !found:
		return firewall.Service{}, problem{"it has no protocol", ""}
	case strings.HasPrefix(strings.ToLower(protocol), "icmp"):
		return firewall.Service{}, problem{"ICMP has no ports", "leave it out: the ICMP that a host needs passes anyway"}
	case protocol != "tcp" && protocol != "udp":
		return firewall.Service{}, problem{fmt.Sprintf("%q is neither tcp nor udp", protocol), ""}
	}
	r, err := parsePortRange(ports)
	return firewall.Service{Protocol: protocol, Ports: r}, err
}

// readPeers reads addresses and networks with commas between them.
func readPeers(s, word string) (ipranges.List, error) {
	var networks []netip.Prefix
	for part := range strings.SplitSeq(s, ",") {
		peer := strings.TrimLeft(part, " ")
		n, err := parseNetwork(peer)
		switch {
		case peer == "any", n.IsValid() && n.Bits() == 0:
			return ipranges.List{}, problem{fmt.Sprintf("%q is every address", peer), leaveOut(word)}
		case err != nil:
			return ipranges.List{}, err
		}
		networks = append(networks, n)
	}
	peers := ipranges.NewList(networks...)
	for _, n := range peers.Networks() {
		if n.Bits() == 0 {
			return peers, problem{fmt.Sprintf("these networks together are %s: every address", n), leaveOut(word)}
		}
	}
	return peers, nil
}

func leaveOut(word string) string {
	if word == outboundWord {
		return `leave out "to ..." where everywhere is meant`
	}
	return `leave out "from ..." where everybody is meant`
}

// meantService suggests what to write instead of an entry that is wrong in its
// form and yet plain in its sense, such as "SSH", "tcp/22" or "22".
func meantService(s, word string) string {
	ports, peers := cutPeers(strings.ToLower(s), word)
	port, protocols := "", []string(nil)
	for _, part := range strings.FieldsFunc(ports, isSeparator) {
		switch {
		case part == "tcp" || part == "udp":
			protocols = append(protocols, part)
		case port != "":
			return "" // several ports, or something else altogether
		default:
			port = cmp.Or(wellKnown(part), strings.Replace(part, ":", "-", 1)) // iptables writes ranges as 1:9
		}
	}
	if protocols == nil {
		protocols = usualProtocols(port)
	}
	return writeServices(port, protocols, peers, word)
}

func isSeparator(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("/|+,", r) }

// cutPeers splits an entry at either word, and gives the networks the right one.
func cutPeers(s, word string) (ports, peers string) {
	for _, w := range []string{inboundWord, outboundWord} {
		if ports, list, found := strings.Cut(s, " "+w+" "); found {
			networks := strings.FieldsFunc(list, func(r rune) bool { return unicode.IsSpace(r) || r == ',' })
			return ports, " " + word + " " + strings.Join(networks, ",")
		}
	}
	return s, ""
}

// writeServices suggests entries, if they are right.
func writeServices(port string, protocols []string, peers, word string) string {
	var entries []string
	for _, protocol := range protocols {
		entry := port + "/" + protocol + peers
		if _, err := readService(entry, word); err != nil {
			return ""
		}
		entries = append(entries, strconv.Quote(entry))
	}
	return "write " + strings.Join(entries, ", ")
}

// wellKnown returns the port of a service that is likely to be named.
func wellKnown(name string) string {
	return map[string]string{"ssh": "22", "domain": "53", "dns": "53", "http": "80", "ntp": "123", "https": "443"}[name]
}

// usualProtocols says what a port without a protocol is used with.
func usualProtocols(port string) []string {
	switch port {
	case "53":
		return []string{"udp", "tcp"} // long answers come by TCP, RFC 7766
	case "123":
		return []string{"udp"}
	}
	return []string{"tcp"}
}
