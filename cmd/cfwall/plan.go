package main

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
)

// exitChanges is how plan --detailed-exitcode says that there are changes.
const exitChanges = 2

func planCommand(o *options) *cobra.Command {
	var detailed bool
	cmd := o.addOutput(&cobra.Command{
		Use:   "plan",
		Short: "Says what apply would change.",
		Long: `Says what cfwall apply would change, in words and as commands of nft, and
whether it would be refused. It changes nothing. A file named with --config is
planned whatever the daemon has.`,
		Example: `  sudo cfwall plan                       what would change?
  sudo cfwall plan --config new.toml     and with another file?`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			planner, err := o.planner(cmd)
			if err != nil {
				return err
			}
			p, err := planner.Plan(cmd.Context(), daemon.NewOrder())
			if err != nil {
				return err
			}
			if err := o.showPlan(cmd, p, planText(p)); err != nil {
				return err
			}
			if p.Refused != "" {
				say(cmd, "warning: apply would refuse this: %s", p.Refused)
				say(cmd, "hint: %s", p.Hint)
			}
			if detailed && !p.Empty {
				return verdict(exitChanges)
			}
			return nil
		},
	})
	cmd.Flags().BoolVar(&detailed, "detailed-exitcode", false, "exit with 2 where there is something to change")
	return cmd
}

func (o *options) planner(cmd *cobra.Command) (daemon.Service, error) {
	if cmd.Flags().Changed("config") {
		return o.engine(slog.DiscardHandler), nil
	}
	return o.reader(slog.DiscardHandler)
}

func (o *options) showPlan(cmd *cobra.Command, p daemon.PlanReport, text string) error {
	if p.Off {
		say(cmd, "warning: cfwall is switched off, every port is open; to switch it on: cfwall on")
	}
	if err := o.show(cmd, p, text); err != nil {
		return err
	}
	warnOfAudit(cmd, p.Audit)
	return nil
}

// planText says what the plan means, what it does, and how.
func planText(p daemon.PlanReport) string {
	text := planWords(p)
	if !p.Empty {
		text += "\nas commands of nft:\n" + p.Script
	}
	return text
}

// planWords says what the plan means, and what it does.
func planWords(p daemon.PlanReport) string {
	switch {
	case p.Empty && p.Off:
		return "nothing to do: cfwall is switched off, and no rules are in force\n"
	case p.Empty:
		return nothingToDo
	}
	var b strings.Builder
	b.WriteString(meaningText(p.Meaning))
	if text := cutsText(p.Cuts); text != "" {
		b.WriteString(hang("", text))
	}
	if b.Len() > 0 {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%s:\n%s", plural(len(p.Changes), "change"), changesText(p.Changes))
	return b.String()
}

// cutsText says which live connections a plan ends.
func cutsText(cuts []daemon.Cut) string {
	var in, out []string
	n := 0
	for _, c := range cuts {
		n += c.Connections
		if c.Outgoing {
			out = append(out, fmt.Sprintf("%d to port %d elsewhere", c.Connections, c.Port))
		} else {
			in = append(in, fmt.Sprintf("%d to port %d", c.Connections, c.Port))
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("ends %s: %s", plural(n, "live connection"), strings.Join(append(in, out...), ", "))
}
