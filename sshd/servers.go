package sshd

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/cfwall/cfwall/firewall/kernel"
)

// A Host is what is known about SSH on this host.
type Host struct {
	Servers  []Server // by address
	Sessions []Session
}

// A Server is where SSH is served.
type Server struct {
	// Address is where it listens: 0.0.0.0 stands for all IPv4 addresses of
	// this host, and :: for all addresses.
	Address netip.AddrPort
	// Program is what serves: a program such as "sshd", a unit such as
	// "ssh.socket", or just "ssh" where only port 22 tells.
	Program string
	// PID is the process that listens; 0 if it is not known.
	PID int
	// Configured is true of a server that does not run, but will.
	Configured bool
	// OnlyIPv6 is true of one at :: that takes no IPv4.
	OnlyIPv6 bool
}

// Find tells the servers and sessions of SSH from the sockets of this host. Own
// is the session of the administrator, if any. Servers on loopback addresses,
// which no policy closes, are left out unless own came by them. Only where
// nothing serves SSH, such as early at boot, the servers that are configured are
// returned.
//
// Files are read below root; "" is this host's own root. The caller need not be
// root: what may not be looked at then is made up for by what everybody may see.
// With an error, which is about configuration, the Host holds what was found.
func Find(root string, listeners []kernel.Listener, connections []kernel.Connection, own Session) (Host, error) {
	configured, err := configuration(root)
	var h Host
	var known signs
	if len(listeners) > 0 {
		known = signs{holders(root), cgroups(root), ports(configured)}
	}
	for _, l := range listeners {
		if s, ok := known.server(l); ok {
			h.Servers = append(h.Servers, s)
		}
	}
	if len(h.Servers) == 0 {
		h.Servers = slices.DeleteFunc(configured, func(s Server) bool { return !startsAtBoot(root, s) })
	}
	h.Servers = slices.DeleteFunc(h.Servers, func(s Server) bool {
		return s.Address.Addr().IsLoopback() && s.Address != own.Local
	})
	slices.SortStableFunc(h.Servers, func(a, b Server) int { return a.Address.Compare(b.Address) })
	h.Servers = slices.CompactFunc(h.Servers, func(a, b Server) bool { return a.Address == b.Address })
	var knocking map[uint32]bool
	if len(connections) > 0 {
		knocking = atLogin(root)
	}
	h.Sessions = sessions(h.Servers, connections, knocking, own)
	return h, err
}

// signs tell which listeners serve SSH, and what the servers are called.
type signs struct {
	holders map[uint32]process // by the inodes of their sockets
	cgroups map[uint64]string  // units, by the inodes of their directories
	ports   map[uint16]string
}

// server believes only sockets that root made: a process of another user may
// call itself sshd, or listen in a shell that sshd has started. Some let sslh
// start as a user of its own; in its units there are no shells.
func (s signs) server(l kernel.Listener) (Server, bool) {
	p, held := s.holders[l.Inode]
	unit := s.cgroups[l.Cgroup]
	port := s.ports[l.Address.Port()]
	server := Server{Address: l.Address, OnlyIPv6: l.OnlyIPv6}
	switch {
	case l.Protocol != "tcp" || l.UID != 0 && !strings.HasPrefix(unit, "sslh"):
		return server, false
	case held:
		server.Program, server.PID = p.name, p.id
	case unit != "":
		server.Program = unit
	case port != "":
		server.Program = port
	}
	return server, server.Program != ""
}

// ports lists the ports where a listener of root's is SSH, whatever we know of
// its process: it may be that of systemd, or we may not look.
func ports(configured []Server) map[uint16]string {
	const ssh = 22 // the port that IANA has assigned to it (RFC 4253, section 4.1)
	all := map[uint16]string{ssh: "ssh"}
	for _, s := range slices.Backward(configured) { // sshd itself comes first
		all[s.Address.Port()] = s.Program
	}
	return all
}
