package sshd

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cfwall/cfwall/firewall/kernel"
)

// A Session is a connection to a server of SSH.
type Session struct {
	Local, Remote netip.AddrPort
	// Own is true of the session of the person who gives the command.
	Own bool
	// Began is how long after this host's start the own one began; 0: not known.
	Began time.Duration `json:",omitzero"`
}

// Began is how long after the host's start a session began in which a process
// runs: when the oldest of its ancestors was started that belongs to it. So what
// tmux or screen has kept of a session is as old as that, though its connection
// has ended long ago; and a mosh whose connection has ended at once is new.
func Began(root string, pid int, s Session) (began time.Duration) {
	began = started(root, pid)
	for depth := 0; depth < deepest && pid > 1; depth++ {
		if of, ok := parseConnection(variable(root, pid, "SSH_CONNECTION")); ok && of.Local == s.Local && of.Remote == s.Remote {
			began = started(root, pid)
		}
		pid = parent(root, pid)
	}
	return began
}

// deepest bounds a look at ancestors. Nobody starts as many shells in shells; and
// while we look, an identifier may become that of a new process, which could lead
// in a circle.
const deepest = 100

// OwnSession finds the session that a process was started in. Connection is its
// SSH_CONNECTION (ssh(1)); where that says nothing, as under sudo, those count
// that the process and its ancestors were started with, the nearest first, as
// far as we may look.
func OwnSession(root string, pid int, connection string) (Session, bool) {
	if s, ok := parseConnection(connection); ok {
		return s, true
	}
	for depth := 0; depth < deepest && pid > 1; depth++ {
		if s, ok := parseConnection(variable(root, pid, "SSH_CONNECTION")); ok {
			return s, true
		}
		pid = parent(root, pid)
	}
	return Session{}, false
}

// parseConnection reads "client-address client-port server-address server-port".
func parseConnection(connection string) (Session, bool) {
	words := strings.Split(connection, " ")
	if len(words) != 4 {
		return Session{}, false
	}
	remote, okRemote := parseEnd(words[0], words[1])
	local, okLocal := parseEnd(words[2], words[3])
	if !okRemote || !okLocal {
		return Session{}, false
	}
	return Session{Local: local, Remote: remote, Own: true}, true
}

// parseEnd drops the zone of a link-local address: the kernel's sockets have none.
func parseEnd(address, port string) (netip.AddrPort, bool) {
	a, errAddress := netip.ParseAddr(address)
	p, errPort := strconv.ParseUint(port, 10, 16)
	return netip.AddrPortFrom(a.Unmap().WithZone(""), uint16(p)), errAddress == nil && errPort == nil && p != 0
}

// sessions lists the connections to the servers that come from elsewhere, and
// the administrator's own. Who only knocks has none: else everybody could keep a
// config from coming into force.
func sessions(servers []Server, connections []kernel.Connection, knocking map[uint32]bool, own Session) []Session {
	var all []Session
	for _, c := range connections {
		served := slices.ContainsFunc(servers, func(s Server) bool { return s.serves(c.Local) })
		if served && !staysHere(c) && (c.Inode == 0 || !knocking[c.Inode]) {
			all = append(all, Session{Local: c.Local, Remote: c.Remote})
		}
	}
	if !own.Remote.IsValid() {
		return all
	}
	own.Own = true
	i := slices.Index(all, Session{Local: own.Local, Remote: own.Remote})
	if i < 0 {
		return append(all, own)
	}
	all[i] = own
	return all
}

// serves reports whether a connection to an address would reach the server.
func (s Server) serves(local netip.AddrPort) bool {
	listens, a := s.Address.Addr(), local.Addr()
	everywhere := listens.IsUnspecified() && (listens.Is6() || a.Is4())
	return s.Address.Port() == local.Port() && (everywhere || listens == a)
}

// staysHere reports whether a connection never leaves this host.
func staysHere(c kernel.Connection) bool {
	local, remote := c.Local.Addr(), c.Remote.Addr()
	return local.IsLoopback() || remote.IsLoopback() || local == remote
}
