package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os/user"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/firewall/neighbours"
	"github.com/cfwall/cfwall/resolvers"
	"github.com/cfwall/cfwall/sshd"
)

// surroundings is how the engine looks at this host; tests have hosts of their own.
type surroundings struct {
	host        func() (firewall.Host, error)
	resolvers   func() (resolvers.Found, error)
	user        func(name string) (uint32, error)
	ssh         func(p firewall.Policy, own sshd.Session) (sshd.Host, error)
	reachedAt   func(ctx context.Context, local, remote netip.AddrPort) (netip.AddrPort, error)
	routeTo     func(netip.Addr) (kernel.Route, error)
	connections func() ([]kernel.Connection, error)
	destroy     func(kernel.Connection) error
	watchRules  func(context.Context) (rulesWatch, error)
	ready       func(context.Context, config.Ready) []cloudflared.Instance
	flows       func(context.Context) ([]cloudflared.Flow, error)
	processes   func() []cloudflared.Process
	probe       func(context.Context, []netip.Addr) []cloudflared.ProbeResult
	neighbours  func(context.Context, func(neighbours.Ruleset)) error
	sinceBoot   func() time.Duration
	wallClock   func() time.Time // for what is stored; somebody may set it at any time
	boot        string           // which start of the host it is

	patients []*patient // who wait for the disk in some of these
}

func theseSurroundings() surroundings {
	nameservers, users := newLastKnown(resolvers.Read), newLastKnown(lookupUser)
	ssh := newPatient("the disk", startPatience)
	ssh.inLoop = sshPatience
	return surroundings{
		host:        kernel.ReadHost,
		resolvers:   func() (resolvers.Found, error) { return nameservers.get("/") },
		user:        func(name string) (uint32, error) { return userNumber(users, name) },
		ssh:         func(p firewall.Policy, own sshd.Session) (sshd.Host, error) { return findSSH(ssh, p, own) },
		reachedAt:   kernel.New().ReachedAt,
		routeTo:     kernel.RouteTo,
		connections: kernel.Connections,
		destroy:     kernel.Destroy,
		watchRules:  watchTheRules,
		ready:       askReady,
		flows:       cloudflared.Flows,
		processes:   cloudflared.Running,
		probe:       cloudflared.Probe,
		neighbours:  kernel.New().Neighbours,
		sinceBoot:   sinceBoot,
		wallClock:   time.Now,
		boot:        bootID(),
		patients:    []*patient{nameservers.patient, users.patient, ssh},
	}
}

func watchTheRules(ctx context.Context) (rulesWatch, error) { return kernel.WatchRules(ctx) }

// sinceBoot is how long ago this host was started. Nobody can set that clock,
// and it goes on while the host sleeps.
func sinceBoot() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // every kernel with nf_tables has it
	return time.Duration(t.Nano())
}

// facts gathers what the ruleset of a policy depends on besides it. What is
// not known then leaves a rule out, and status says so.
func (e *Engine) facts(p firewall.Policy) (firewall.Host, error) {
	h, err := e.host()
	if err != nil || !p.Outbound.Drop {
		return h, err
	}
	found, _ := e.resolvers()
	h.Resolvers = found.Addresses
	if p.Tunnel.User != "" {
		if id, err := e.user(p.Tunnel.User); err == nil {
			h.TunnelUser = &id
		}
	}
	return h, nil
}

// userNumber is that of a user's name; a number need not have one. It has no need
// of the disk, and is not remembered: whoever asks could make up any amount.
func userNumber(users *lastKnown[uint32], name string) (uint32, error) {
	if id, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(id), nil
	}
	return users.get(name)
}

// lookupUser finds a user's number by name.
func lookupUser(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("looking up a user: %w", err)
	}
	id, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(id), err
}

// unknownUser refuses a policy that leaves the tunnel to a user who does not exist.
func unknownUser(p firewall.Policy, h firewall.Host) error {
	if !p.Outbound.Drop || p.Tunnel.User == "" || h.TunnelUser != nil {
		return nil
	}
	return refuse(ExitUsage, `name the user that cloudflared runs as (ps -o user= -C cloudflared), or leave [tunnel] user empty`,
		"[tunnel] user: this host knows no user %q, so nobody could reach the tunnel's port", p.Tunnel.User)
}

// outboundProblems says what is not known of what the outbound policy lets pass.
func (e *Engine) outboundProblems(h firewall.Host) []Problem {
	if !e.config.Policy.Outbound.Drop {
		return nil
	}
	var problems []Problem
	if err := unknownUser(e.config.Policy, h); err != nil {
		problems = append(problems, Problem{"user-unknown", Degraded, err.Error(), cureOf(err)})
	}
	found, err := e.resolvers()
	switch {
	case len(found.Addresses) > 0:
	case found.Stub && err == nil:
		problems = append(problems, Problem{"resolvers-unknown", Warning,
			"programs ask a DNS server on this host, and which servers that asks in turn is not known: it may reach none",
			`name them in [outbound] allow: "53/udp to ADDRESS", "53/tcp to ADDRESS"`})
	default:
		problems = append(problems, Problem{"no-resolvers", Degraded,
			fmt.Sprintf("no DNS server is known, so none can be reached: %v", err),
			"put nameserver lines into /etc/resolv.conf; they are followed as they change"})
	}
	return problems
}
