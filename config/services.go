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
	case strings.Contains(strings.ToLower(s), "icmp"):
		return firewall.Service{}, problem{"ICMP has no ports", "leave it out: the ICMP that a host needs passes anyway"}
	case !found:
		return firewall.Service{}, problem{"it has no protocol", ""}
	case protocol != "tcp" && protocol != "udp":
		return firewall.Service{}, problem{fmt.Sprintf("%q is neither tcp nor udp", protocol), ""}
	}
	r, err := parsePortRange(ports)
	if err != nil {
		return firewall.Service{}, problem{err.Error(), ""} // what it suggests is not a whole entry
	}
	return firewall.Service{Protocol: protocol, Ports: r}, nil
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
			return ipranges.List{}, problem{err.Error(), curePeers(peer, word)}
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

// curePeers is for peers that meantService can make nothing of.
func curePeers(peer, word string) string {
	if isName(peer) {
		return cureName
	}
	return fmt.Sprintf(`such as "22/tcp %s 192.0.2.7, 2001:db8::/48"`, word)
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
	networks, addresses := meantEntries(s, word, meantNetwork), meantEntries(s, word, meantAddress)
	switch networks {
	case "":
		return ""
	case addresses:
		return "write " + networks
	}
	return "write " + networks + ", or " + addresses + " for single addresses"
}

// meantEntries quotes the right entries, one for each protocol. There are none
// where the sense is not plain.
func meantEntries(s, word string, meantPeer func(string) string) string {
	ports, peers := cutPeers(strings.ToLower(s), word, meantPeer)
	port, protocols := "", []string(nil)
	for _, part := range strings.FieldsFunc(ports, isSeparator) {
		switch {
		case part == "tcp" || part == "udp":
			protocols = append(protocols, part)
		case port != "":
			return "" // several ports, or something else altogether
		default:
			port = meantPorts(part)
		}
	}
	if protocols == nil {
		protocols = usualProtocols(port)
	}
	return quoteServices(port, protocols, peers, word)
}

func meantPorts(s string) string {
	ports := cmp.Or(wellKnown(s), strings.Replace(s, ":", "-", 1)) // iptables writes ranges as 1:9
	if turned, ok := turnedRange(ports); ok {
		return turned.String()
	}
	return ports
}

// meantNetwork clears the bits beyond a network's length, and writes IPv4 as IPv4.
func meantNetwork(s string) string {
	n, err := readNetwork(s)
	if n.Addr().Is4In6() {
		n = unmap(n)
	}
	if err != nil || !n.IsValid() {
		return s
	}
	return networkText(n.Masked())
}

// meantAddress takes a network with such bits for the one address.
func meantAddress(s string) string {
	address, _, _ := strings.Cut(s, "/")
	if n, err := readNetwork(s); err == nil && n != n.Masked() {
		return meantNetwork(address)
	}
	return meantNetwork(s)
}

func isSeparator(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("/|+,", r) }

// cutPeers splits an entry at either word, and gives the networks the right
// one and the right form.
func cutPeers(s, word string, meantPeer func(string) string) (ports, peers string) {
	for _, w := range []string{inboundWord, outboundWord} {
		if ports, list, found := strings.Cut(s, " "+w+" "); found {
			networks := strings.FieldsFunc(list, func(r rune) bool { return unicode.IsSpace(r) || r == ',' })
			for i, n := range networks {
				networks[i] = meantPeer(n)
			}
			return ports, " " + word + " " + strings.Join(networks, ",")
		}
	}
	return s, ""
}

// quoteServices quotes entries, if they are right.
func quoteServices(port string, protocols []string, peers, word string) string {
	var entries []string
	for _, protocol := range protocols {
		entry := port + "/" + protocol + peers
		if _, err := readService(entry, word); err != nil {
			return ""
		}
		entries = append(entries, strconv.Quote(entry))
	}
	return strings.Join(entries, ", ")
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
