package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/daemon"
	"github.com/cfwall/cfwall/firewall"
)

func checkCommand(o *options) *cobra.Command {
	var probe bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Finds mistakes in a configuration file before they matter.",
		Long: `Checks a configuration file: its syntax, its meaning, and whether it goes with
this host: whether it would lock SSH out, and in mode tunnel whether the tunnel
is up and which rule of another table stands in its way. It changes nothing. As
root it sees more.`,
		Example: "  sudo cfwall check\n  cfwall check new.toml\n  sudo cfwall check --probe",
		Args:    arguments(0, 1, "one FILE"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"toml"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.paths.Config = args[0]
				if err := mustExist(args[0]); err != nil {
					return err
				}
			}
			return o.check(cmd, probe)
		},
	}
	cmd.Flags().BoolVar(&probe, "probe", false, "try whether the tunnel's port of Cloudflare can be reached (3 s)")
	return cmd
}

func (o *options) check(cmd *cobra.Command, probe bool) error {
	c, remarks, err := o.engine(slog.DiscardHandler).Check(cmd.Context(), daemon.Order{Session: daemon.OwnSession()}, probe)
	if err != nil {
		return checkError(err)
	}
	ok := "ok"
	if _, err := os.Stat(o.paths.Config); err != nil {
		ok = "ok, there is no such file, which means the default"
	}
	for _, r := range remarks {
		say(cmd, "warning: %s", r.Text)
		say(cmd, "  hint: %s", r.Cure)
	}
	return o.show(cmd, nil, fmt.Sprintf("%s: %s: %s\n", o.paths.Config, ok, describe(c)))
}

// checkError has a hint that suits somebody who is checking already.
func checkError(err error) error {
	if _, ok := errors.AsType[config.Errors](err); ok {
		return usage("cfwall print --reference-config explains every key", "%w", err)
	}
	return err
}

func openText(open []firewall.Service) string {
	var words []string
	for _, s := range open {
		words = append(words, s.Text("from"))
	}
	return orNone(strings.Join(words, " and "))
}

// describe sums a configuration up in one line.
func describe(c config.Config) string {
	p := c.Policy
	words := []string{
		fmt.Sprintf("mode %s", p.Mode),
		fmt.Sprintf("guards tcp %s udp %s", orNone(firewall.JoinPorts(p.TCP)), orNone(firewall.JoinPorts(p.UDP))),
	}
	if n := p.Allow.Len(); n > 0 {
		words = append(words, "allows "+plural(n, "network"))
	}
	if n := len(p.Interfaces); n > 0 {
		words = append(words, "allows "+plural(n, "interface"))
	}
	if p.ContainerBridges {
		words = append(words, "allows containers")
	}
	if p.Inbound.Drop {
		words = append(words, "drops whatever else comes in but "+openText(p.Inbound.Open))
	}
	if p.Outbound.Drop {
		words = append(words, "lets out only what the tunnel needs")
	}
	return strings.Join(words, ", ")
}
