package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
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
	switch {
	case errors.Is(err, kernel.ErrPermission):
		return t, append(problems, Problem{"not-root", Warning, "the tunnel's flows and the tables of other programs were not looked at: only root may", "run it as root (sudo cfwall ...)"})
	case err != nil:
		problems = append(problems, Problem{"flows-unknown", Warning, "not all flows of the tunnel are known: " + err.Error(), "a kernel with CONFIG_INET_DIAG and CONFIG_NF_CT_NETLINK tells"})
	}
	if c.Policy.Mode == firewall.ModeTunnel && !t.up() {
		problems = append(problems, tunnelDown(t.Instances))
	}
	problems = append(problems, silentInstances(t)...)
	problems = append(problems, s.ownObstacles(c, t.Flows)...)
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
	if p.Outbound.Drop && p.Tunnel.User != "" && !p.Audit {
		return []Problem{{"probe-in-vain", Warning, "whether Cloudflare can be reached was not tried: only the user of [tunnel] user may talk to it", "cfwall status says whether cloudflared is connected"}}
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
	if c.Policy.Mode != firewall.ModeTunnel || c.Tunnel.Ready.Off || c.Policy.Audit {
		return nil
	}
	host, err := e.host()
	if err != nil {
		return err
	}
	have, err := e.table.Read(ctx, familyOf(host))
	if err != nil || have.Table != nil && have.Table.Mode() == firewall.ModeTunnel && !have.Table.Audit() {
		return nil // whatever is wrong with the table, the pass will say it
	}
	if why := notReady(e.ready(ctx, c.Tunnel.Ready)); why != "" {
		return refuse(ExitUsage, "start cloudflared first, or say in [tunnel] ready where it can be asked; cfwall apply --force closes the ports all the same",
			"mode tunnel closes the web ports for everyone, but no tunnel is up: %s", why)
	}
	return nil
}

// cutsTunnel refuses a [tunnel] user or edge that refuses the cloudflared that
// runs here.
func (e *Engine) cutsTunnel(ctx context.Context, c config.Config) error {
	flows, _ := e.flows(ctx) // those that are known
	for _, p := range e.ownObstacles(c, flows) {
		return refuse(ExitUsage, p.Cure+"; cfwall apply --force does it all the same", "%s", p.Text)
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
		why = append(why, cmp.Or(i.Problem, fmt.Sprintf("cloudflared at %s runs, but is not connected to Cloudflare", i.Address)))
	}
	if len(why) == 0 {
		return "no cloudflared answers at " + cloudflared.DefaultAddresses
	}
	return strings.Join(why, "; ")
}

// tunnelDown tells a cloudflared that runs in vain from one that does not run.
func tunnelDown(all []cloudflared.Instance) Problem {
	runs := slices.ContainsFunc(all, func(i cloudflared.Instance) bool { return i.Problem == "" })
	cure := "start it (systemctl start cloudflared), or say in [tunnel] ready where it can be asked"
	if runs {
		cure = "see why: journalctl -u cloudflared; cfwall check --probe tries to reach Cloudflare"
	}
	return Problem{"tunnel-down", Degraded, "no tunnel is up: " + notReady(all), cure}
}

// silentInstances names those of several instances that do not answer.
func silentInstances(t TunnelStatus) []Problem {
	var problems []Problem
	for _, i := range t.Instances {
		if i.Problem != "" && t.up() {
			problems = append(problems, Problem{"instance-down", Warning, "one cloudflared is not known to be up: " + i.Problem, "start it, or take its address out of [tunnel] ready"})
		}
	}
	return problems
}
