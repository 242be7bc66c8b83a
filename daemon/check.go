package daemon

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
)

// Checked says what was found about a configuration file that can be in force.
type Checked struct {
	Config   config.Config             `json:"-"`
	Problems []Problem                 `json:"problems"` // what works, but perhaps not as one would think
	Probes   []cloudflared.ProbeResult `json:"probes"`   // of Cloudflare's side of a tunnel, if it was tried
	// Difference is that from the config in force; nil: there is none, or that is
	// not known. It is there also for a file that is refused.
	Difference *Difference `json:"difference,omitempty"`
}

// Check reads the configuration file and says whether it can be in force on
// this host. With probe it tries whether the tunnel could reach Cloudflare.
func (e *Engine) Check(ctx context.Context, o Order, probe bool) (Checked, error) {
	c, text, err := e.readConfig()
	found := Checked{Config: c, Difference: e.difference(ctx, text)}
	if err != nil {
		return found, err
	}
	lockouts, err := e.conflict(ctx, c.Policy, o)
	if err != nil {
		return found, err
	}
	if len(lockouts) > 0 {
		return found, lockouts[0].refusal()
	}
	host, err := e.facts(c.Policy)
	if err != nil {
		return found, err
	}
	checking := *e
	checking.config = c
	found.Problems, found.Probes = append(policyRemarks(c, host), checking.outboundProblems(host)...), []cloudflared.ProbeResult{}
	if err := Unreadable(e.paths.Config); err != nil && e.paths.Config == DefaultPaths.Config && hasService() {
		found.Problems = append(found.Problems, Problem{"config-unreadable", Warning, err.Error(), cureOf(err)})
	}
	found.Problems = append(found.Problems, e.withoutAudit(ctx, c, o)...)
	if c.Policy.Mode == firewall.ModeTunnel || probe {
		e.checkTunnel(ctx, &found, probe)
	}
	return found, nil
}

func (e *Engine) checkTunnel(ctx context.Context, found *Checked, probe bool) {
	tunnel, problems := e.lookAtTunnel(ctx, found.Config, probe)
	if err := e.tunnelReady(ctx, found.Config); err != nil { // it says more than that the tunnel is down
		problems = slices.DeleteFunc(problems, func(p Problem) bool { return p.Code == "tunnel-down" })
		found.Problems = append(found.Problems, Problem{"apply-refuses", Warning, "apply would refuse this: " + err.Error(), cureOf(err)})
	}
	found.Problems = append(found.Problems, problems...)
	found.Probes = append(found.Probes, tunnel.Probes...)
}

// policyRemarks names what a policy does that one might not expect.
func policyRemarks(c config.Config, h firewall.Host) []Problem {
	remarks := []Problem{}
	add := func(code, cure, format string, args ...any) {
		remarks = append(remarks, Problem{code, Warning, fmt.Sprintf(format, args...), cure})
	}
	p := c.Policy
	for _, idle := range idleKeys(c) {
		add("no-effect", "policy = \"drop\" in that table puts it in force", "%s has no effect while its policy is accept", idle)
	}
	for _, s := range p.Inbound.Open {
		if s.Protocol == "tcp" && len(firewall.SubtractPorts([]firewall.PortRange{s.Ports}, p.TCP)) == 0 {
			add("open-guarded", "take it out of open, or out of [web] tcp", "[inbound] open: %s is guarded by [web]; open does not change who reaches it", s.Text("from"))
		}
	}
	if risky := firewall.RepliesAt(p.TCP, h); len(risky) > 0 {
		add("replies-pass", "choose ports outside of net.ipv4.ip_local_port_range, or reserve them: net.ipv4.ip_local_reserved_ports",
			"[web] tcp %s: this host, or hosts behind it, also use these ports for connections of their own, so that only new connections are filtered there", firewall.JoinPorts(risky))
	}
	if p.Outbound.Drop && h.Routes {
		add("forwarded-passes", "filter what containers send in the container engine's own chain (DOCKER-USER), or in a table of your own",
			"[outbound] filters what this host itself sends; what it forwards for containers and other hosts is left alone")
	}
	if mirror := elsewhere(c.Ranges.Source.API); p.Outbound.Drop && mirror != "" {
		add("mirror-closed", fmt.Sprintf(`if it is not behind Cloudflare, add to [outbound] allow: "443/tcp to ADDRESS" of %s`, mirror),
			"[ranges] api is at %s, which [outbound] lets pass only if it has an address of Cloudflare's", mirror)
	}
	return remarks
}

// idleKeys lists what a config sets that a policy leaves without effect.
func idleKeys(c config.Config) []string {
	var idle []string
	standard := config.Default().Policy.Inbound.Open
	if !c.Policy.Inbound.Drop && !slices.EqualFunc(c.Policy.Inbound.Open, standard, func(a, b firewall.Service) bool { return a.Text("from") == b.Text("from") }) {
		idle = append(idle, "[inbound] open")
	}
	if c.Policy.Outbound.Drop {
		return idle
	}
	if len(c.Policy.Outbound.Allow) > 0 {
		idle = append(idle, "[outbound] allow")
	}
	if c.Policy.Tunnel.User != "" || c.Policy.Tunnel.Edge.Len() > 0 {
		idle = append(idle, "[tunnel] user and edge are about [outbound]: what they say")
	}
	return idle
}

// elsewhere is the host of a URL that is not Cloudflare's own; "" if it is.
func elsewhere(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "cloudflare.com" || strings.HasSuffix(u.Hostname(), ".cloudflare.com") {
		return ""
	}
	return u.Hostname()
}
