package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
	"github.com/cfwall/cfwall/firewall"
)

func allowCommand(o *options) *cobra.Command {
	var lasting time.Duration
	var list, remove bool
	cmd := o.addOutput(&cobra.Command{
		Use:   "allow [ADDR|NETWORK]",
		Short: "Lets somebody reach the guarded ports for a while.",
		Long: `Lets an address or a network reach the guarded ports for a while, as [allow]
from in the configuration does for good. Entries survive a restart, not their
time. --for, --list and --remove exclude one another.`,
		Example: `  sudo cfwall allow 203.0.113.9 --for 2h     let somebody in
  sudo cfwall allow --list                   who is let in?
  sudo cfwall allow --remove 203.0.113.9     and no longer`,
		RunE: func(cmd *cobra.Command, args []string) error {
			timed := cmd.Flags().Changed("for")
			if list && remove || list && timed || remove && timed {
				return usage("cfwall allow --help has examples", "--for, --list and --remove are three different things to do")
			}
			if list {
				return o.listAllowed(cmd, args)
			}
			network, err := onlyNetwork(cmd, args)
			if err != nil {
				return err
			}
			return o.change(cmd, graveWarnings(cmd), func(s daemon.Service) error {
				if remove {
					return o.disallow(cmd, s, network)
				}
				return o.allow(cmd, s, network, lasting)
			})
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return o.completeAllowed(cmd, remove), cobra.ShellCompDirectiveNoFileComp
		},
	})
	cmd.Flags().DurationVar(&lasting, "for", time.Hour, "how long: 30s, 15m, 2h, 720h at most")
	cmd.Flags().Lookup("for").DefValue = "1h"
	cmd.Flags().BoolVar(&list, "list", false, "list who is allowed for a while")
	cmd.Flags().BoolVar(&remove, "remove", false, "end an entry before its time")
	return cmd
}

func (o *options) allow(cmd *cobra.Command, s daemon.Service, network netip.Prefix, lasting time.Duration) error {
	entry, err := s.Allow(cmd.Context(), network, lasting)
	if err != nil {
		return err
	}
	now := time.Now()
	return o.show(cmd, entry, fmt.Sprintf("%s may reach the guarded ports until %s (%s)\n",
		networkText(entry.Network), clock(entry.Expires, now), in(entry.Expires, now)))
}

func (o *options) disallow(cmd *cobra.Command, s daemon.Service, network netip.Prefix) error {
	if err := s.Disallow(cmd.Context(), network); err != nil {
		return err
	}
	say(cmd, "%s is no longer allowed for a while", networkText(network))
	return nil
}

func (o *options) listAllowed(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("cfwall allow --list", "--list takes no address")
	}
	entries, err := o.allowed(cmd, allWarnings(cmd))
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		say(cmd, "nobody is allowed for a while; [allow] in the configuration allows for good")
	}
	return o.show(cmd, entries, allowedText(entries, time.Now()))
}

func (o *options) allowed(cmd *cobra.Command, log slog.Handler) ([]firewall.Temporary, error) {
	service, err := o.reader(log)
	if err != nil {
		return nil, err
	}
	return service.Allowed(cmd.Context())
}

func allowedText(entries []firewall.Temporary, now time.Time) string {
	var b strings.Builder
	longest := 0
	for _, e := range entries {
		longest = max(longest, len(networkText(e.Network)))
	}
	for _, e := range entries {
		fmt.Fprintf(&b, "%-*s   until %s (%s)\n", longest, networkText(e.Network), clock(e.Expires, now), in(e.Expires, now))
	}
	return b.String()
}

// completeAllowed offers the entries that could be removed.
func (o *options) completeAllowed(cmd *cobra.Command, remove bool) []string {
	if !remove {
		return nil
	}
	entries, err := o.allowed(cmd, slog.DiscardHandler)
	if err != nil {
		return nil
	}
	var words []string
	for _, e := range entries {
		words = append(words, networkText(e.Network))
	}
	return words
}
