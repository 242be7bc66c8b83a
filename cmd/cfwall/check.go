package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/daemon"
	"github.com/cfwall/cfwall/firewall"
)

func checkCommand(o *options) *cobra.Command {
	var probe bool
	cmd := o.addOutput(&cobra.Command{
		Use:   "check [FILE]",
		Short: "Finds mistakes in a configuration file before they matter.",
		Long: `Checks a configuration file: its syntax, its meaning, and whether it goes with
this host. One that would lock SSH out is refused. In mode tunnel it says
whether the tunnel is up, and which rule of another table stands in its way. It
shows how the file differs from the config in force. It changes nothing. As root
it sees more.`,
		Example: `  sudo cfwall check              the configuration file
  sudo cfwall check new.toml     another one, before it is put there
  sudo cfwall check --probe      can cloudflared reach Cloudflare?`,
		Args: arguments(0, 1, "one FILE"),
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
	})
	cmd.Flags().BoolVar(&probe, "probe", false, "try whether the tunnel's port of Cloudflare can be reached (3 s)")
	return cmd
}

func (o *options) check(cmd *cobra.Command, probe bool) error {
	c, err := o.engine(slog.DiscardHandler).Check(cmd.Context(), daemon.Order{Session: daemon.OwnSession()}, probe)
	if err != nil {
		if o.output == textOutput {
			fmt.Fprint(cmd.OutOrStdout(), configDiffText(c.Difference)) // what was changed is what is wrong
		}
		return checkError(err)
	}
	ok := "ok"
	if _, err := os.Stat(o.paths.Config); err != nil {
		ok = "ok, there is no such file, which means the default"
	}
	for _, r := range c.Problems {
		say(cmd, "warning: %s", r.Text)
		say(cmd, "  hint: %s", r.Cure)
	}
	refused := slices.ContainsFunc(c.Problems, func(p daemon.Problem) bool { return p.Code == "apply-refuses" })
	if refused {
		ok = "without mistakes, but not to be applied now"
	}
	err = o.show(cmd, c, fmt.Sprintf("%s%s: %s: %s\n%s", probesText(c.Probes), o.paths.Config, ok, describe(c.Config), configDiffText(c.Difference)))
	if err == nil && refused && cmd.Name() == "check" { // install says itself what it does not do
		return verdict(daemon.ExitUsage)
	}
	return err
}

// probesText names the ways in which Cloudflare answered.
func probesText(all []cloudflared.ProbeResult) string {
	var ways []string
	for _, p := range all {
		if p.OK {
			ways = append(ways, fmt.Sprintf("%s to %s", p.Protocol, p.Address))
		}
	}
	if len(ways) == 0 {
		return ""
	}
	return fmt.Sprintf("port %d of Cloudflare answers: %s\n", cloudflared.Port, strings.Join(ways, ", "))
}

// checkError has a hint that suits somebody who is checking already.
func checkError(err error) error {
	if _, ok := errors.AsType[config.Errors](err); ok {
		return usage("cfwall print --reference-config explains every key", "%w", err)
	}
	return err
}

func exceptions(beginning string, services []firewall.Service, preposition string) string {
	if len(services) == 0 {
		return ""
	}
	var words []string
	for _, s := range services {
		words = append(words, s.Text(preposition))
	}
	return beginning + strings.Join(words, " and ")
}

// describe sums a configuration up in one line.
func describe(c config.Config) string {
	p := c.Policy
	words := []string{
		fmt.Sprintf("mode %s", p.Mode),
		fmt.Sprintf("guards tcp %s udp %s", orNone(firewall.JoinPorts(p.TCP)), orNone(firewall.JoinPorts(p.UDP))),
	}
	if p.Audit {
		words = append([]string{"AUDIT (nothing is dropped, only counted)"}, words...)
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
		words = append(words, "drops whatever else comes in"+exceptions(", but ", p.Inbound.Open, "from"))
	}
	if p.Outbound.Drop {
		words = append(words, "lets out only what the tunnel needs"+exceptions(" and ", p.Outbound.Allow, "to"))
	}
	return strings.Join(words, ", ")
}
