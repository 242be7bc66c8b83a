package sshd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// configDir is where sshd_config is, and what Include counts from.
const configDir = "/etc/ssh"

// installed are files of which one is there where sshd is.
var installed = []string{
	"/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd",
	"/usr/lib/systemd/system/ssh.service", "/usr/lib/systemd/system/sshd.service",
	"/lib/systemd/system/ssh.service", "/etc/systemd/system/sshd.service",
}

// configuredServers lists where sshd will listen by its configuration, if it is
// installed. Where the configuration may not be read, that is where sshd
// listens by default.
func configuredServers(root string) ([]Server, error) {
	if !slices.ContainsFunc(installed, func(path string) bool {
		_, err := os.Stat(filepath.Join(root, path))
		return err == nil
	}) {
		return nil, nil
	}
	c := config{root: root, seen: make(map[string]bool)}
	c.read(filepath.Join(root, configDir, "sshd_config"))
	var all []Server
	for _, address := range c.listensAt() {
		all = append(all, Server{Address: address, Program: "sshd", Configured: true})
	}
	return all, errors.Join(c.errs...)
}

// A config is what sshd_config(5) says about addresses and ports.
type config struct {
	root   string
	seen   map[string]bool // files: none is read twice
	errs   []error
	ports  []uint16
	listen []netip.AddrPort // port 0: all ports; no address: a name, which may be any of ours
	family string
}

// read reads a file; one that is missing says nothing.
func (c *config) read(path string) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() || errors.Is(err, fs.ErrNotExist) || c.seen[path] {
		return
	}
	c.seen[path] = true
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		err = c.parse(f)
	}
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("reading the configuration of sshd: %w", err))
	}
}

// parse reads lines up to the first Match, below which neither ports nor
// addresses may be set.
func (c *config) parse(r io.Reader) error {
	lines := bufio.NewScanner(io.LimitReader(r, largest))
	lines.Buffer(nil, largest+1)
	for lines.Scan() {
		keyword, arguments := parseLine(lines.Text())
		if keyword == "match" {
			break
		}
		if keyword == "include" {
			c.include(arguments)
		} else if len(arguments) > 0 {
			c.set(keyword, arguments[0])
		}
	}
	return lines.Err()
}

// include reads the files that patterns name, as if they stood here.
func (c *config) include(patterns []string) {
	for _, p := range patterns {
		if !filepath.IsAbs(p) {
			p = filepath.Join(configDir, p)
		}
		files, _ := filepath.Glob(filepath.Join(c.root, filepath.Clean(p)))
		for _, f := range files {
			c.read(f)
		}
	}
}

// most is how many ports sshd takes (MAX_PORTS in OpenSSH's servconf.h). As many
// addresses will do as well.
const most = 256

// set takes what sshd takes: all ports and addresses, but the first family.
func (c *config) set(keyword, argument string) {
	switch keyword {
	case "port":
		if port, ok := parsePort(argument); ok && len(c.ports) < most {
			c.ports = append(c.ports, port)
		}
	case "listenaddress":
		if a, ok := parseListenAddress(argument); ok && len(c.listen) < most {
			c.listen = append(c.listen, a)
		}
	case "addressfamily":
		if c.family == "" {
			c.family = strings.ToLower(argument)
		}
	}
}

// listensAt fills in what is not set: port 22, and all addresses.
func (c *config) listensAt() []netip.AddrPort {
	listen, ports := c.listen, c.ports
	if len(listen) == 0 {
		listen = []netip.AddrPort{{}}
	}
	if len(ports) == 0 {
		ports = []uint16{22}
	}
	var all []netip.AddrPort
	for _, l := range listen {
		at := ports
		if l.Port() != 0 {
			at = []uint16{l.Port()}
		}
		for _, port := range at {
			for _, a := range c.addresses(l.Addr()) {
				all = append(all, netip.AddrPortFrom(a, port))
			}
		}
	}
	return all
}

// addresses returns all addresses for none.
func (c *config) addresses(a netip.Addr) []netip.Addr {
	switch {
	case a.IsValid():
		return []netip.Addr{a}
	case c.family == "inet":
		return []netip.Addr{netip.IPv4Unspecified()}
	case c.family == "inet6":
		return []netip.Addr{netip.IPv6Unspecified()}
	}
	return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
}

// parseLine reads "Keyword argument ..." or "keyword=argument"; arguments may
// stand in quotes, and a comment may follow.
func parseLine(line string) (keyword string, arguments []string) {
	const blanks = " \t\r"
	line = strings.TrimLeft(line, blanks)
	end := strings.IndexAny(line, blanks+"=")
	if end < 0 || line[0] == '#' {
		return strings.ToLower(line), nil
	}
	keyword = strings.ToLower(line[:end])
	rest := strings.TrimPrefix(strings.TrimLeft(line[end:], blanks), "=")
	for rest = strings.TrimLeft(rest, blanks); rest != "" && rest[0] != '#'; rest = strings.TrimLeft(rest, blanks) {
		var argument string
		if rest[0] == '"' {
			argument, rest, _ = strings.Cut(rest[1:], `"`)
		} else {
			end := strings.IndexAny(rest+" ", blanks)
			argument, rest = rest[:end], rest[end:]
		}
		arguments = append(arguments, argument)
	}
	return keyword, arguments
}

func parsePort(s string) (uint16, bool) {
	port, err := strconv.ParseUint(s, 10, 16)
	return uint16(port), err == nil && port != 0
}

// parseListenAddress reads "host", "host:port", "address", "[address]" or
// "[address]:port".
func parseListenAddress(s string) (netip.AddrPort, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a.Unmap().WithZone(""), 0), true
	}
	host, number, hasPort := s, "", false
	if i := strings.LastIndex(s, ":"); i > strings.LastIndex(s, "]") {
		host, number, hasPort = s[:i], s[i+1:], true
	}
	port, ok := parsePort(number)
	a, _ := netip.ParseAddr(strings.Trim(host, "[]")) // else it is a name
	return netip.AddrPortFrom(a.Unmap().WithZone(""), port), ok || !hasPort
}
