package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/ipranges"
)

// A TunnelStatus says whether cloudflared on this host is connected.
type TunnelStatus struct {
	Asked       bool                      `json:"asked"` // false with [tunnel] ready = "off"
	Instances   []cloudflared.Instance    `json:"instances"`
	Connections int                       `json:"connections"` // of all instances
	Flows       []cloudflared.Flow        `json:"flows"`       // to the port of Cloudflare's side
	Probes      []cloudflared.ProbeResult `json:"probes,omitempty"`
}

// up reports whether somebody is connected, as far as it was asked.
func (t TunnelStatus) up() bool { return !t.Asked || t.Connections > 0 }

// lookAtTunnel asks cloudflared and the kernel how the tunnel is, and where it
// is down what stands in its way. That takes seconds, so the daemon's loop must
// not wait for it.
func (s surroundings) lookAtTunnel(ctx context.Context, c config.Config, probe bool) (TunnelStatus, []Problem) {
	t := TunnelStatus{Asked: !c.Tunnel.Ready.Off, Instances: []cloudflared.Instance{}, Flows: []cloudflared.Flow{}}
	if t.Asked {
		t.Instances = append(t.Instances, s.ready(ctx, c.Tunnel.Ready)...)
	}
	for _, i := range t.Instances {
		t.Connections += i.Connections
	}
	flows, err := s.flows(ctx)
	t.Flows = append(t.Flows, flows...)
	var problems []Problem
	if err != nil {
		problems = append(problems, Problem{"flows-unknown", Warning, "not all flows of the tunnel are known: " + err.Error(), "a kernel with CONFIG_INET_DIAG and CONFIG_NF_CT_NETLINK tells"})
	}
	if c.Policy.Mode == firewall.ModeTunnel && !t.up() {
		problems = append(problems, Problem{"tunnel-down", Degraded, "nobody is connected: " + notReady(t.Instances), "start it (systemctl start cloudflared), and see its log: journalctl -u cloudflared"})
	}
	problems = append(problems, s.obstacles(ctx, c, t.Flows)...)
	if probe || len(t.Instances) > 0 && !t.up() {
		t.Probes = s.probe(ctx, edgeOf(c))
		problems = append(problems, probeProblems(c.Policy, t.Probes)...)
	}
	return t, problems
}

// probeProblems sums up what could not be reached. Where the tunnel's port is
// for another user, a failure of ours says nothing about that one.
func probeProblems(p firewall.Policy, all []cloudflared.ProbeResult) []Problem {
	if p.Outbound.Drop && p.Tunnel.User != "" {
		return nil
	}
	var failed []string
	reasons := map[string][]string{}
	for _, r := range all {
		if r.OK || !r.Routed && slices.ContainsFunc(all, func(o cloudflared.ProbeResult) bool { return o.Routed }) {
			continue // a host need not have both families
		}
		if reasons[r.Problem] == nil {
			failed = append(failed, r.Problem)
		}
		reasons[r.Problem] = append(reasons[r.Problem], fmt.Sprintf("%s %s", r.Protocol, r.Address))
	}
	if len(failed) == 0 {
		return nil
	}
	for i, why := range failed {
		failed[i] = fmt.Sprintf("%s: %s", strings.Join(reasons[why], ", "), why)
	}
	return []Problem{{"edge-unreachable", Warning, fmt.Sprintf("port %d of Cloudflare: %s", cloudflared.Port, strings.Join(failed, "; ")),
		"let it out, here and in the firewalls of the network; cloudflared needs udp and tcp"}}
}

// edgeOf is where a tunnel of the config's region goes.
func edgeOf(c config.Config) []netip.Addr {
	list, _ := ipranges.TunnelEdge(c.Tunnel.Region)
	var all []netip.Addr
	for _, n := range list.Networks() {
		all = append(all, n.Addr())
	}
	return all
}

// askReady asks the instances of cloudflared on this host whether they are connected.
func askReady(ctx context.Context, r config.Ready) []cloudflared.Instance {
	switch {
	case r.Off:
		return nil
	case len(r.Addresses) == 0:
		return cloudflared.Find(ctx)
	default:
		return cloudflared.Ask(ctx, r.Addresses)
	}
}

// tunnelReady refuses to close the web ports for a tunnel that is not up. Where
// they are closed already there is nothing to refuse.
func (e *Engine) tunnelReady(ctx context.Context, c config.Config) error {
	if c.Policy.Mode != firewall.ModeTunnel || c.Tunnel.Ready.Off {
		return nil
	}
	host, err := e.host()
	if err != nil {
		return err
	}
	have, err := e.table.Read(ctx, familyOf(host))
	if err != nil || have.Table != nil && have.Table.Mode() == firewall.ModeTunnel {
		return nil // whatever is wrong with the table, the pass will say it
	}
	if why := notReady(e.ready(ctx, c.Tunnel.Ready)); why != "" {
		return refuse(ExitUsage, "start cloudflared first, or say in [tunnel] ready where it can be asked; cfwall apply --force closes the ports all the same",
			"mode tunnel closes the web ports for everyone, and %s", why)
	}
	return nil
}

// notReady says why nobody is connected; "" where somebody is.
func notReady(all []cloudflared.Instance) string {
	var why []string
	for _, i := range all {
		if i.Ready {
			return ""
		}
		why = append(why, cmp.Or(i.Problem, i.Address+" has no connection to Cloudflare"))
	}
	if len(why) == 0 {
		return "no cloudflared answers at 127.0.0.1:20241 to 20245"
	}
	return "no tunnel is up: " + strings.Join(why, "; ")
}
