package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/ipranges"
	"github.com/cfwall/cfwall/sshd"
	"github.com/cfwall/cfwall/systemd"
)

// findSSH looks for SSH on this host: servers, and who is logged in. Where no
// connections are, as at boot, and nobody listens where a policy closes, there is
// no need to look through all processes.
func findSSH(disk *patient, p firewall.Policy, own sshd.Session) (sshd.Host, error) {
	listeners, errListeners := kernel.Listeners()
	connections, errConnections := kernel.Connections()
	if len(connections) == 0 && !p.Inbound.Drop {
		listeners = slices.DeleteFunc(listeners, func(l kernel.Listener) bool { return !firewall.PortsContain(p.TCP, l.Address.Port()) })
	}
	found, err := patiently(disk, "the files of sshd", func(context.Context) (sshd.Host, error) {
		return sshd.Find("", listeners, connections, own) // without sockets: what is configured
	})
	if os.Geteuid() != 0 {
		found.Sessions = slices.DeleteFunc(found.Sessions, func(s sshd.Session) bool { return !s.Own }) // who only knocks looks the same
	}
	if err := errors.Join(errListeners, errConnections, err); err != nil {
		return found, fmt.Errorf("finding out where SSH listens, and who is logged in: %w", err)
	}
	return found, nil
}

// OwnSession is the SSH session that this process was started from, if any.
func OwnSession() sshd.Session {
	s, ok := sshd.OwnSession("", os.Getpid(), os.Getenv("SSH_CONNECTION"))
	if ok {
		s.Began = sshd.Began("", os.Getpid(), s)
	}
	return s
}

// A lockout is a way into this host by SSH that a policy would close.
type lockout struct {
	port    uint16
	guarded bool         // as a web port; else by the inbound policy
	carrier bool         // port is a UDP port, of the VPN that the session may come by
	session sshd.Session // zero where nobody is known to be logged in
	server  sshd.Server
}

// lockouts lists the ways into this host by SSH that a policy would close:
// sessions that it would cut, and servers that nobody could reach any more.
//
// A session counts at the port that its client used: the host may lead it to
// another, and rules look at it before that.
func (e *Engine) lockouts(ctx context.Context, p firewall.Policy, h firewall.Host, o Order) ([]lockout, error) {
	found, err := e.sshFor(p, o)
	if err != nil && len(found.Servers) == 0 && !errors.Is(err, fs.ErrPermission) {
		return nil, err // what only root may read, as some write sshd's configuration, is no fault
	}
	want, err := firewall.Build(feasible(p, h), firewall.Lists{Cloudflare: e.book.Current.List}, h)
	if err != nil {
		return nil, err
	}
	guarded, closed := closedServers(p, found.Servers)
	return slices.Concat(guarded, e.cutSessions(ctx, p, want, found.Sessions), closed), nil
}

// closedServers lists the servers on guarded ports, and those that the inbound
// policy closes. Nothing closes the way to one on a loopback address.
func closedServers(p firewall.Policy, all []sshd.Server) (guarded, closed []lockout) {
	for _, s := range all {
		port := s.Address.Port()
		switch {
		case s.Address.Addr().IsLoopback():
		case firewall.PortsContain(p.TCP, port):
			guarded = append(guarded, lockout{port: port, guarded: true, server: s})
		case closesServer(p, s, all):
			closed = append(closed, lockout{port: port, server: s})
		}
	}
	return guarded, closed
}

// cutSessions lists the sessions whose packets a ruleset drops.
func (e *Engine) cutSessions(ctx context.Context, p firewall.Policy, r firewall.Ruleset, all []sshd.Session) []lockout {
	var cut []lockout
	for _, s := range all {
		if at, err := e.reachedAt(ctx, s.Local, s.Remote); err == nil {
			s.Local = at
		}
		port := s.Local.Port()
		switch carrier, closed := closedCarrier(p); {
		case e.drops(r, s.Local, s.Remote):
			cut = append(cut, lockout{port: port, guarded: firewall.PortsContain(p.TCP, port), session: s})
		case closed && !s.Remote.Addr().IsLoopback() && r.Decide(firewall.Packet{Source: s.Remote.Addr(), Protocol: "tcp", Port: port, Opening: true}).Verdict == firewall.Drop:
			cut = append(cut, lockout{port: carrier, carrier: true, session: s}) // only its interface lets it pass
		}
	}
	return cut
}

// vpnPorts are those of OpenVPN, IPsec and WireGuard.
var vpnPorts = []uint16{500, 1194, 4500, 51820}

// closedCarrier finds a UDP port that a policy closes and that may carry a VPN:
// one of the kernel's own sockets, which no process holds (WireGuard, VXLAN), or
// one that VPNs have.
func closedCarrier(p firewall.Policy) (port uint16, closed bool) {
	if !p.Inbound.Drop {
		return 0, false
	}
	listeners, _ := kernel.Listeners()
	for _, l := range listeners {
		port = l.Address.Port()
		if l.Protocol != "udp" || l.Address.Addr().IsLoopback() || l.Inode != 0 && !slices.Contains(vpnPorts, port) {
			continue
		}
		if _, open := openTo(p, l); !open && !firewall.PortsContain(p.UDP, port) {
			return port, true
		}
	}
	return 0, false
}

// cutsCarrier refuses to end connections for somebody whose session comes from
// this host itself: another program brings it, by one that cannot be told apart.
func (e *Engine) cutsCarrier(ctx context.Context, c config.Config, own sshd.Session) error {
	if !own.Remote.Addr().IsLoopback() {
		return nil
	}
	report, err := e.planOf(ctx, c, Order{Force: true})
	if err != nil || len(report.Cuts) == 0 {
		return err
	}
	return refuse(ExitUsage, "cfwall plan names them; cfwall apply --force ends them",
		"your SSH session comes by another program on this host, and this config ends live connections, perhaps the one that brings it")
}

// drops reports whether a ruleset drops what comes in over a connection.
func (e *Engine) drops(r firewall.Ruleset, local, remote netip.AddrPort) bool {
	p := firewall.Packet{Source: remote.Addr(), SourcePort: remote.Port(), Protocol: "tcp", Port: local.Port(), Opening: true}
	if r.Decide(p).Verdict != firewall.Drop {
		return false
	}
	if remote.Addr().IsLinkLocalUnicast() {
		return true // it may have come by any interface
	}
	route, _ := e.routeTo(remote.Addr())
	p.Interface = route.Interface // who came by a trusted one stays
	return r.Decide(p).Verdict == firewall.Drop
}

// closesServer reports whether the inbound policy leaves nobody who could reach
// a server. A port may have a server for each family: it is enough to reach one.
func closesServer(p firewall.Policy, s sshd.Server, all []sshd.Server) bool {
	if !p.Inbound.Drop || slices.ContainsFunc(p.Interfaces, anyInterface) {
		return false
	}
	return !slices.ContainsFunc(all, func(other sshd.Server) bool {
		return other.Address.Port() == s.Address.Port() && slices.ContainsFunc(p.Inbound.Open, func(o firewall.Service) bool {
			return o.Protocol == "tcp" && o.Ports.Contains(s.Address.Port()) && serves(other, o)
		})
	})
}

// serves reports whether a server can have a client among those of an entry.
func serves(s sshd.Server, o firewall.Service) bool {
	a := s.Address.Addr()
	return o.Peers.Len() == 0 || a.Is4() && len(o.Peers.V4()) > 0 ||
		a.Is6() && (len(o.Peers.V6()) > 0 || a.IsUnspecified() && !s.OnlyIPv6 && len(o.Peers.V4()) > 0)
}

// anyInterface reports whether this host has an interface of a name or pattern
// by which others can come.
func anyInterface(pattern string) bool {
	all, _ := net.Interfaces()
	return slices.ContainsFunc(all, func(i net.Interface) bool {
		beginning, isPattern := strings.CutSuffix(pattern, "*")
		named := i.Name == pattern || isPattern && strings.HasPrefix(i.Name, beginning)
		return named && i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 && i.Flags&net.FlagRunning != 0
	})
}

// refusal says which way in would be closed, and the line that keeps it open.
func (l lockout) refusal() error {
	what := fmt.Sprintf("port %d is where SSH listens (%s): this config would lock you out", l.port, l.server.Program)
	switch {
	case l.carrier:
		what = fmt.Sprintf("port %d/udp may carry the VPN by which the SSH session from %s comes: this config would close it", l.port, l.session.Remote.Addr())
	case l.session.Remote.IsValid() && l.session.Own:
		what = fmt.Sprintf("port %d is the one of your SSH session from %s: this config would cut it and lock you out", l.port, l.session.Remote.Addr())
	case l.session.Remote.IsValid():
		what = fmt.Sprintf("port %d is the one of an SSH session from %s: this config would cut it", l.port, l.session.Remote.Addr())
	case l.server.Configured:
		what = fmt.Sprintf("port %d is where SSH will listen once it runs (%s): this config would lock you out", l.port, l.server.Program)
	}
	return refuse(ExitUsage, l.cure()+"; cfwall apply --force closes it all the same", "%s", what)
}

func (l lockout) cure() string {
	switch {
	case l.carrier:
		return fmt.Sprintf(`add "%d/udp" to [inbound] open`, l.port)
	case l.guarded && l.session.Remote.IsValid():
		return fmt.Sprintf("take the port out of [web] tcp, or add %q to [allow] from", l.session.Remote.Addr())
	case l.guarded:
		return "take the port out of [web] tcp, or move SSH to another port"
	case l.session.Remote.IsValid():
		return fmt.Sprintf(`add to [inbound] open: "%d/tcp from %s", or "%[1]d/tcp" for everybody`, l.port, l.session.Remote.Addr())
	default:
		return fmt.Sprintf(`add to [inbound] open: "%d/tcp", or for some only: "%[1]d/tcp from NETWORK"`, l.port)
	}
}

// leavingOpen leaves open what a policy would close of SSH: a server for
// everybody, a session for its client alone.
func leavingOpen(p firewall.Policy, lockouts []lockout) firewall.Policy {
	for _, l := range lockouts {
		port := firewall.PortRange{First: l.port, Last: l.port}
		client := l.session.Remote.Addr()
		switch {
		case l.carrier:
			p.Inbound.Open = append(slices.Clip(p.Inbound.Open), firewall.Service{Protocol: "udp", Ports: port})
		case client.IsValid() && l.guarded:
			p.Allow = p.Allow.Union(ipranges.NewList(netip.PrefixFrom(client, client.BitLen())))
		case client.IsValid():
			p.Inbound.Open = append(slices.Clip(p.Inbound.Open), firewall.Service{Protocol: "tcp", Ports: port, Peers: ipranges.NewList(netip.PrefixFrom(client, client.BitLen()))})
		default:
			p.TCP = firewall.SubtractPorts(p.TCP, []firewall.PortRange{port})
			p.Inbound.Open = append(slices.Clip(p.Inbound.Open), firewall.Service{Protocol: "tcp", Ports: port})
		}
	}
	return p
}

// Forced is a way in by SSH that `cfwall apply --force` has closed.
type Forced struct {
	Port uint16 `json:"port"`
	Why  string `json:"why"` // it was refused before
}

// keepForced writes down what was closed by force, so that a restart does not
// open it again. An order without force forgets it.
func (e *Engine) keepForced(forced []Forced) {
	e.state.forced = forced
	if err := e.keep(e.paths.forced(), e.state.forced); err != nil {
		systemd.StateFailed.Log(e.log, "what was closed by force could not be written down: a restart leaves it open", "error", err)
	}
}

func forcedOf(lockouts []lockout) []Forced {
	var forced []Forced
	for _, l := range lockouts {
		forced = append(forced, Forced{l.port, l.refusal().Error()})
	}
	return forced
}

// unforced leaves out what was closed by force.
func (s state) unforced(lockouts []lockout) []lockout {
	return slices.DeleteFunc(slices.Clone(lockouts), func(l lockout) bool {
		return slices.ContainsFunc(s.forced, func(f Forced) bool { return f.Port == l.port })
	})
}

func (s state) forcedProblems() []Problem {
	var problems []Problem
	for _, f := range s.forced {
		problems = append(problems, Problem{"ssh-closed", Warning, "closed by --force: " + f.Why, "open it in the config, and: cfwall reload"})
	}
	return problems
}
