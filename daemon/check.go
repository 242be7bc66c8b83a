package daemon

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
)

// Check reads the configuration file and says whether it can be in force on
// this host. Remarks name what works, but perhaps not as one would think. With
// probe it tries whether the tunnel could reach Cloudflare.
func (e *Engine) Check(ctx context.Context, o Order, probe bool) (c config.Config, remarks []Problem, err error) {
	c, _, err = e.readConfig()
	if err != nil {
		return c, nil, err
	}
	if err := e.conflict(ctx, c.Policy, o); err != nil {
		return c, nil, err
	}
	host, err := e.facts(c.Policy)
	if err != nil {
		return c, nil, err
	}
	checked := *e
	checked.config = c
	remarks = append(policyRemarks(c, host), checked.outboundProblems(host)...)
	if c.Policy.Mode == firewall.ModeTunnel || probe {
		_, problems := e.lookAtTunnel(ctx, c, probe)
		remarks = append(remarks, problems...)
	}
	return c, remarks, nil
}

// policyRemarks names what a policy does that one might not expect.
func policyRemarks(c config.Config, h firewall.Host) []Problem {
	var remarks []Problem
	add := func(code, cure, format string, args ...any) {
		remarks = append(remarks, Problem{code, Warning, fmt.Sprintf(format, args...), cure})
	}
	p := c.Policy
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

// elsewhere is the host of a URL that is not Cloudflare's own; "" if it is.
func elsewhere(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "cloudflare.com" || strings.HasSuffix(u.Hostname(), ".cloudflare.com") {
		return ""
	}
	return u.Hostname()
}
