package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
)

func whyCommand(o *options) *cobra.Command {
	var to bool
	var user string
	cmd := o.addOutput(&cobra.Command{
		Use:   "why ADDR [PORT][/udp]",
		Short: "Says what becomes of a visitor, and which rule decides.",
		Long: `Says what becomes of a visitor who comes from outside, and which rule and which
entry of a list decide, from what the kernel holds now. Without a port it asks
about port 443, or the first one that is guarded. With --to it says what becomes
of what this host sends there.`,
		Example: `  sudo cfwall why 203.0.113.9                would this visitor get in?
  sudo cfwall why 203.0.113.9:8443           and at another port?
  sudo cfwall why 2001:db8::7 443/udp        by HTTP/3?
  sudo cfwall why [2001:db8::7]:443/udp      the same
  sudo cfwall why --to 198.51.100.9 25       may this host send mail there?
  sudo cfwall why --to 198.41.192.27 7844/udp --user cloudflared     its tunnel?`,
		Args: arguments(1, 2, "ADDR, and perhaps PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := parseQuestion(args)
			if err != nil {
				return err
			}
			service, err := o.reader(allWarnings(cmd))
			if err != nil {
				return err
			}
			q.Outgoing, q.User = to, user
			if user != "" && !to {
				return usage("add --to", "--user is about what this host sends")
			}
			x, err := service.Why(cmd.Context(), q)
			if err != nil {
				return err
			}
			return o.show(cmd, x, whyText(x))
		},
	})
	cmd.Flags().BoolVar(&to, "to", false, "ask about what this host sends to the address")
	cmd.Flags().StringVar(&user, "user", "", "the `user` who sends it, by name or number (default root)")
	return cmd
}

// parseQuestion reads ADDR, ADDR:PORT, [ADDR]:PORT or ADDR PORT, with "/tcp"
// or "/udp" at the end or not.
func parseQuestion(args []string) (q daemon.Question, err error) {
	last := len(args) - 1
	rest, protocol, isNamed := strings.Cut(args[last], "/")
	if isNamed && protocol != "tcp" && protocol != "udp" {
		return q, usage(whyHint, "%q: a protocol is tcp or udp", args[last])
	}
	q.Protocol = protocol
	words := slices.Concat(args[:last], []string{rest})
	if a, err := netip.ParseAddrPort(words[0]); err == nil && len(words) == 1 && a.Port() != 0 {
		q.Source, q.Port = a.Addr(), a.Port()
		return checkSource(q)
	}
	q.Source, err = netip.ParseAddr(strings.Trim(words[0], "[]"))
	if err != nil {
		return q, usage(whyHint, "%q is not an address", words[0])
	}
	if len(words) == 2 {
		port, err := strconv.ParseUint(words[1], 10, 16)
		if err != nil || port == 0 {
			return q, usage(whyHint, "%q is not a port: ports are 1 to 65535", words[1])
		}
		q.Port = uint16(port)
	}
	return checkSource(q)
}

const whyHint = "such as: cfwall why 203.0.113.9, cfwall why 2001:db8::7 443/udp"

func checkSource(q daemon.Question) (daemon.Question, error) {
	if q.Source.Zone() != "" {
		return q, usage(whyHint, "%q: an address from outside has no zone", q.Source)
	}
	return q, nil
}

func whyText(x daemon.Explanation) string {
	verdicts := map[string]string{
		daemon.Admitted:   "ADMITTED",
		daemon.Dropped:    "DROPPED",
		daemon.NotGuarded: "NOT GUARDED",
		daemon.Unknown:    "UNKNOWN",
		daemon.NoTable:    "NOT GUARDED",
		daemon.Audited:    "WOULD BE DROPPED",
	}
	var f fields
	format := "%s   %s to port %d/%s\n"
	if x.Outgoing {
		verdicts[daemon.Dropped], verdicts[daemon.NotGuarded] = "REFUSED", "NOT FILTERED"
		verdicts[daemon.Audited] = "WOULD BE REFUSED"
		format = "%s   from here to %s port %d/%s\n"
	}
	fmt.Fprintf(&f.b, format, verdicts[x.Verdict], x.Source, x.Port, x.Protocol)
	f.add("because", "%s", x.Text)
	if x.Entry != "" {
		f.add("entry", "%s in the set %s", x.Entry, x.Set)
	}
	if x.Rule != "" {
		f.add("rule", "%s (chain %s)", x.Rule, x.Chain)
	}
	return f.b.String()
}
