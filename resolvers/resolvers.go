package resolvers

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
)

// Found is what a host's files say about the DNS servers that it asks.
type Found struct {
	// Addresses holds the servers elsewhere, sorted, without duplicates.
	Addresses []netip.Addr
	// Stub is true where the host asks a resolver of its own, and no file
	// says which servers that one asks in turn. Addresses is empty then.
	Stub bool
	// File names the file that the addresses stand in, or "A and B".
	File string
}

const resolvConf = "/etc/resolv.conf"

// upstreams are the files that say which servers a resolver on this host asks:
// systemd-resolved's and, with dnsmasq or another plugin, NetworkManager's
// (NetworkManager.conf(5), rc-manager).
var upstreams = []string{"/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"}

var errNone = errors.New(resolvConf + " names no server")

func inWords(err error) error {
	switch {
	case errors.Is(err, errNone):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return errors.New(resolvConf + " does not exist, or leads to a file that does not")
	default:
		return fmt.Errorf("reading %s: %w", resolvConf, err)
	}
}

// Read reads the files of the host whose file system begins at root, which is
// "/" but for tests. What it found holds even where it returns an error too:
// a host whose /etc/resolv.conf is missing, empty or unreadable asks itself.
func Read(root string) (Found, error) { return tree{root: root}.servers() }

func (t tree) servers() (Found, error) {
	asked, err := t.nameservers(resolvConf)
	if err == nil && len(asked) == 0 {
		err = errNone
	}
	if err != nil {
		err = inWords(err)
	}
	var found Found
	found.add(resolvConf, asked)
	if len(found.Addresses) == 0 {
		err = errors.Join(err, t.addUpstreams(&found))
	}
	found.Stub = len(found.Addresses) == 0
	return found, err
}

// addUpstreams takes all of the files, since none says whether the resolver
// that is asked reads it.
func (t tree) addUpstreams(found *Found) (failed error) {
	for _, file := range upstreams {
		asked, err := t.nameservers(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, fmt.Errorf("reading %s: %w", file, err))
		}
		found.add(file, asked)
	}
	return failed
}

// add takes the servers elsewhere. To connect to 0.0.0.0 or :: is to connect
// to this host.
func (f *Found) add(file string, servers []netip.Addr) {
	elsewhere := slices.DeleteFunc(servers, func(a netip.Addr) bool { return a.IsLoopback() || a.IsUnspecified() })
	if len(elsewhere) == 0 {
		return
	}
	f.Addresses = slices.Compact(slices.SortedFunc(slices.Values(append(f.Addresses, elsewhere...)), netip.Addr.Compare))
	if f.File != "" {
		file = f.File + " and " + file
	}
	f.File = file
}

func (t tree) nameservers(file string) ([]netip.Addr, error) {
	text, err := t.read(file)
	return parse(string(text)), err
}

// maxServers bounds what one file may name. glibc asks the first 3 only
// (resolv.conf(5), MAXNS), other libraries ask all.
const maxServers = 16

// parse reads the servers in a file as resolv.conf(5) has it. It is as lax as
// Go's resolver, which cloudflared uses, about blanks before the keyword and
// carriage returns, and like glibc it ends an address at a comment. A line
// that it cannot read is one that nobody can.
func parse(text string) (servers []netip.Addr) {
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		// A rule knows no zone (fe80::1%eth0), and on the wire ::ffff:192.0.2.1 is IPv4.
		if a, err := netip.ParseAddr(words[1]); err == nil && len(servers) < maxServers {
			servers = append(servers, a.Unmap().WithZone(""))
		}
	}
	return servers
}
