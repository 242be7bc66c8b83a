package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/neighbours"
	"github.com/cfwall/cfwall/systemd"
)

// obstacles finds what other tables and systemd would do to the tunnel's
// traffic: an accept of ours cannot undo a drop of theirs.
func (s surroundings) obstacles(ctx context.Context, c config.Config, flows []cloudflared.Flow) []Problem {
	traffic, err := s.tunnelTraffic(c, flows)
	if err != nil {
		return []Problem{{"neighbours-unknown", Warning, "whether other tables let the tunnel pass is not known: " + err.Error(), "cfwall check --probe tries it"}}
	}
	var problems []Problem
	err = s.neighbours(ctx, func(r neighbours.Ruleset) {
		findings, _ := r.Judge(traffic.Traffic())
		problems = nil
		for _, f := range findings {
			problems = append(problems, Problem{"tunnel-blocked", Degraded, f.String(), f.Cure})
		}
	})
	if err != nil {
		problems = append(problems, Problem{"neighbours-unknown", Warning, "the tables of other programs could not be read: " + err.Error(), "cfwall check --probe tries whether the tunnel can pass"})
	}
	return append(problems, deniedBySystemd("", edgeOf(c))...)
}

// ownObstacles finds what the config's own [tunnel] refuses of a cloudflared that
// runs here.
func (s surroundings) ownObstacles(c config.Config, flows []cloudflared.Flow) []Problem {
	p := c.Policy
	if !p.Outbound.Drop || p.Audit {
		return nil
	}
	refused := func(cure, format string, args ...any) []Problem {
		return []Problem{{"tunnel-refused", Degraded, fmt.Sprintf(format, args...), cure}}
	}
	if id, err := s.user(p.Tunnel.User); p.Tunnel.User != "" && err == nil {
		for _, process := range s.processes() {
			if process.UID != id {
				return refused(fmt.Sprintf("[tunnel] user = \"%d\", or leave it empty", process.UID),
					"[tunnel] user is %s, but cloudflared (pid %d) runs as user %d: its tunnel is refused", p.Tunnel.User, process.PID, process.UID)
			}
		}
	}
	for _, f := range flows {
		if _, known := p.Tunnel.Edge.Lookup(f.Remote.Addr()); p.Tunnel.Edge.Len() > 0 && !known && s.ofTunnel(f) {
			return refused(`edge = "ranges", or the region of your tunnel`,
				"[tunnel] edge is strict, and %s is none of the documented addresses of region %s: what cloudflared sends there is refused", f.Remote.Addr(), c.Tunnel.Region)
		}
	}
	return nil
}

// ofTunnel reports whether a flow is cloudflared's. Where the daemon may not see
// who has a socket, its user tells.
func (s surroundings) ofTunnel(f cloudflared.Flow) bool {
	if f.Process != "" || f.UID == nil {
		return f.Process == "cloudflared"
	}
	return slices.ContainsFunc(s.processes(), func(p cloudflared.Process) bool { return p.UID == *f.UID })
}

// tunnelTraffic gathers from which process, and by which way, the tunnel goes.
func (s surroundings) tunnelTraffic(c config.Config, flows []cloudflared.Flow) (neighbours.Tunnel, error) {
	host, err := s.host()
	if err != nil {
		return neighbours.Tunnel{}, err
	}
	t := neighbours.Tunnel{Edge: s.peers(oneOfEach(edgeOf(c))), Container: s.container(flows)}
	if len(host.Ephemeral) > 0 {
		t.Ephemeral = firewall.PortRange{First: host.Ephemeral[0].First, Last: host.Ephemeral[len(host.Ephemeral)-1].Last}
	}
	found, _ := s.resolvers()
	t.Resolvers = s.peers(found.Addresses)
	if found.Stub || found.File != "" && found.File != "/etc/resolv.conf" {
		t.Resolvers = append(t.Resolvers, s.peers([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 53})})...)
	}
	if all := s.processes(); len(all) > 0 && t.Container == nil {
		t.UID, t.Cgroups = &all[0].UID, cgroupIDs(all[0].Cgroup)
	} else if id, err := s.user(c.Policy.Tunnel.User); err == nil {
		t.UID = &id
	}
	return t, nil
}

// oneOfEach picks an address of each family.
func oneOfEach(all []netip.Addr) []netip.Addr {
	var picked []netip.Addr
	for _, is4 := range []bool{true, false} {
		if i := slices.IndexFunc(all, func(a netip.Addr) bool { return a.Is4() == is4 }); i >= 0 {
			picked = append(picked, all[i])
		}
	}
	return picked
}

// peers leaves out what no route leads to.
func (s surroundings) peers(addresses []netip.Addr) []neighbours.Peer {
	var peers []neighbours.Peer
	for _, a := range addresses {
		if r, err := s.routeTo(a); err == nil {
			peers = append(peers, neighbours.Peer{Address: a, Source: r.Source, Interface: neighbours.Interface{Name: r.Interface, Index: uint32(r.Index)}})
		}
	}
	return peers
}

// container is where the tunnel comes from, if this host only forwards it.
func (s surroundings) container(flows []cloudflared.Flow) *neighbours.Container {
	var c *neighbours.Container
	for _, f := range flows {
		if !f.Forwarded {
			continue
		}
		if c == nil {
			r, _ := s.routeTo(f.Local.Addr())
			c = &neighbours.Container{Bridge: neighbours.Interface{Name: r.Interface, Index: uint32(r.Index)}}
		}
		if f.Local.Addr().Is4() {
			c.IPv4 = f.Local.Addr()
		} else {
			c.IPv6 = f.Local.Addr()
		}
	}
	return c
}

// cgroupIDs numbers a control group and those above it, the root first: a
// group's number is that of its directory.
func cgroupIDs(group string) []uint64 {
	const root = "/sys/fs/cgroup"
	var ids []uint64
	for dir := path.Join(root, group); group != "" && strings.HasPrefix(dir, root); dir = path.Dir(dir) {
		var s unix.Stat_t
		if unix.Stat(dir, &s) != nil {
			return nil
		}
		ids = append(ids, s.Ino)
	}
	slices.Reverse(ids)
	return ids
}

// deniedBySystemd reads IPAddressDeny= and IPAddressAllow= of cloudflared's unit
// (systemd.resource-control(5)), which systemd enforces where no table shows it.
func deniedBySystemd(root string, edge []netip.Addr) []Problem {
	const name = "cloudflared.service"
	unit, _ := systemd.ReadUnit(root, name) // with an error it holds what could be read
	denied, allowed := unit.Values("Service", "IPAddressDeny"), unit.Values("Service", "IPAddressAllow")
	for _, a := range oneOfEach(edge) {
		if names(denied, a) && !names(allowed, a) {
			return []Problem{{"tunnel-blocked", Degraded, fmt.Sprintf("%s: its IPAddressDeny= drops what goes to %s", name, a),
				fmt.Sprintf("systemctl edit %s: add IPAddressAllow=any, or the networks of `cfwall ranges`", name)}}
		}
	}
	return nil
}

// names reports whether lists of systemd name an address.
func names(lists []string, a netip.Addr) bool {
	for _, list := range lists {
		for word := range strings.FieldsSeq(list) {
			n, err := netip.ParsePrefix(word)
			single, errSingle := netip.ParseAddr(word)
			if word == "any" || err == nil && n.Contains(a) || errSingle == nil && single == a {
				return true
			}
		}
	}
	return false
}
