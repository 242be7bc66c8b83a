package config

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/cfwall/cfwall/ipranges"
)

// Tunnel says which cloudflared runs here. What it may send is in the Policy.
type Tunnel struct {
	// Region is one of ipranges.TunnelRegions.
	Region string
	Ready  Ready
}

// Ready says where cloudflared is asked whether its tunnel stands. The zero
// Ready looks for it at the addresses that cloudflared takes by itself.
type Ready struct {
	// Off asks nobody.
	Off bool
	// Addresses are "HOST:PORT" of each instance, sorted.
	Addresses []string
}

func (d *document) tunnel(r raw, c *Config) {
	const ranges, strict = "ranges", "strict"
	edge := ranges
	set(d, r.Tunnel.Region, &c.Tunnel.Region, text(oneOf("region", ipranges.TunnelRegions()...)))
	set(d, r.Tunnel.Edge, &edge, text(oneOf("edge", ranges, strict)))
	if edge == strict {
		c.Policy.Tunnel.Edge, _ = ipranges.TunnelEdge(c.Tunnel.Region)
	}
	set(d, r.Tunnel.User, &c.Policy.Tunnel.User, text(parseUser))
	d.ready(r.Tunnel.Ready, &c.Tunnel.Ready)
}

func (d *document) ready(v *value, to *Ready) {
	switch {
	case v.emptyArray():
		d.fail(v.span, problem{v.key + " is empty", `write "off" to ask nobody, or "auto"`})
	case v != nil && v.kind == unstable.Array:
		setAll(d, v, &to.Addresses, text(parseReadyItem))
		to.Addresses = slices.Compact(slices.Sorted(slices.Values(to.Addresses)))
	default:
		set(d, v, to, text(parseReady))
	}
}

func parseReady(s string) (Ready, error) {
	switch s {
	case "auto":
		return Ready{}, nil
	case "off":
		return Ready{Off: true}, nil
	}
	if word := closest(s, []string{"auto", "off"}); word != "" {
		return Ready{}, problem{fmt.Sprintf("unknown word %q", s), meant(word)}
	}
	address, err := parseReadyAddress(s, `write "auto", "off" or "127.0.0.1:20241"`)
	return Ready{Addresses: []string{address}}, err
}

// parseReadyItem reads one of several addresses.
func parseReadyItem(s string) (string, error) {
	if s == "auto" || s == "off" {
		return "", problem{fmt.Sprintf("%q stands alone, without brackets", s), "write ready = " + strconv.Quote(s)}
	}
	return parseReadyAddress(s, `such as "127.0.0.1:20241"`)
}

// parseReadyAddress reads "127.0.0.1:20241" or "cloudflared.internal:20241";
// example is what it suggests where it cannot guess the address.
func parseReadyAddress(s, example string) (string, error) {
	address, ok := readyAddress(s)
	if !ok {
		return "", problem{fmt.Sprintf("%q is not an address with a port", s), cmp.Or(cureReady(s), example)}
	}
	return address, nil
}

// readyAddress reports whether an address can be asked, and writes its port
// without leading zeros.
func readyAddress(s string) (string, bool) {
	host, port, err := net.SplitHostPort(s)
	number, errPort := strconv.ParseUint(port, 10, 16)
	if err != nil || errPort != nil || number == 0 || !isHost(host) {
		return "", false
	}
	return net.JoinHostPort(host, strconv.FormatUint(number, 10)), true
}

// isHost holds for an address that can be asked, and for what may be the name
// of a host.
func isHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return !a.IsUnspecified() && a.Zone() == ""
	}
	const inNames = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
	return s != "" && strings.Trim(s, inNames) == ""
}

// cureReady knows how cloudflared's own settings and log name the address:
// "http://127.0.0.1:20241/ready", "0.0.0.0:20241", "[::]:20241", ":20241".
func cureReady(s string) string {
	if u, err := url.Parse(s); err == nil && u.Host != "" {
		s = u.Host
	}
	for _, everywhere := range []string{"0.0.0.0:", "[::]:", ":"} {
		s = strings.TrimPrefix(s, everywhere)
	}
	for _, guess := range []string{s, "127.0.0.1:" + s} {
		if address, ok := readyAddress(guess); ok {
			return write(address)
		}
	}
	return ""
}

// parseUser reads the name or the number of a user; empty means every user. A
// name that Samba writes as DOMAIN\user is refused: its number does as well.
func parseUser(s string) (string, error) {
	const (
		maxName   = 255            // LOGIN_NAME_MAX of limits.h without the final zero
		maxNumber = math.MaxUint32 // which stands for no user itself, as in chown(2)
	)
	number, err := strconv.ParseUint(s, 10, 64)
	isNumber := !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	switch {
	case s == "":
		return "", nil
	case isNumber && (err != nil || number >= maxNumber):
		return "", problem{fmt.Sprintf("%s is not the number of a user", s), fmt.Sprintf("numbers go up to %d", maxNumber-1)}
	case len(s) > maxName, s == ".", s == "..", strings.HasPrefix(s, "-"), strings.ContainsFunc(s, notInName):
		return "", problem{fmt.Sprintf("%q cannot be the name of a user", s), `such as "cloudflared", or a number such as "998"`}
	}
	return s, nil
}
