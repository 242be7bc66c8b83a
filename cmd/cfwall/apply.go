package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
)

func applyCommand(o *options) *cobra.Command {
	var force bool
	var confirm time.Duration
	cmd := o.addOutput(&cobra.Command{
		Use:   "apply",
		Short: "Puts the configuration in force now.",
		Long: `Puts the configuration in force now, reads the rules back and compares them.
Where the daemon runs it does the work, with its own configuration file.

It refuses what would close the way in by which you came, or any other to SSH,
and mode tunnel while no tunnel is up; --force does it all the same, once.

With --confirm the configuration before comes back after that time, whatever
has become of this command, the daemon or the host, unless somebody who has
logged in anew runs cfwall confirm. On a terminal it waits for that, and Ctrl-C
goes back at once; else it ends with exit code 5, and the daemon waits. Where no
daemon runs it needs a terminal. Connections that are no longer admitted end
once it is confirmed.`,
		Example: `  sudo cfwall plan && sudo cfwall apply     look at the changes, then make them
  sudo cfwall apply --confirm 60s           go back, unless cfwall confirm comes`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.refuseConfigFlag(cmd); err != nil {
				return err
			}
			order := daemon.NewOrder()
			order.Force, order.Confirm = force, confirm
			if cmd.Flags().Changed("confirm") {
				return o.try(cmd, order)
			}
			return o.change(cmd, slog.DiscardHandler, func(s daemon.Service) error {
				report, err := s.Apply(cmd.Context(), order)
				if err != nil {
					return err
				}
				return o.showReport(cmd, report)
			})
		},
	})
	cmd.Flags().DurationVar(&confirm, "confirm", 0, "go back after this time, 1s to 1h, unless cfwall confirm comes")
	cmd.Flags().Lookup("confirm").DefValue = "0s" // which pflag does not print
	cmd.Flags().BoolVar(&force, "force", false, "do it even if it closes SSH, or the web ports for a tunnel that is not up")
	return cmd
}

// refuseConfigFlag refuses to name a file where the daemon would use another.
func (o *options) refuseConfigFlag(cmd *cobra.Command) error {
	if !cmd.Flags().Changed("config") {
		return nil
	}
	if _, err := daemon.Dial(o.paths); err != nil {
		return nil // change says what is wrong
	}
	return usage("put it in the daemon's place and run: cfwall reload", "the daemon runs, and has a configuration file of its own")
}

const nothingToDo = "nothing to do: the rules in force are what the policy wants\n"

func meaningText(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(hang("", l))
	}
	return b.String()
}

func cutText(connections int) string {
	if connections == 0 {
		return ""
	}
	return fmt.Sprintf("closed %s that the policy no longer admits\n", plural(connections, "live connection"))
}

// showReport says what a pass has changed. While cfwall is off it warns, and
// ends with the exit code of a host that is not protected.
func (o *options) showReport(cmd *cobra.Command, r daemon.Report) error {
	text := nothingToDo
	if r.Off {
		text = ""
	}
	if r.Changed {
		text = fmt.Sprintf("in force and verified: %s in %s\n%s%s%s", plural(len(r.Changes), "change"),
			plural(r.Transactions, "transaction"), meaningText(r.Meaning), changesText(r.Changes), cutText(r.Cut))
	}
	if err := o.show(cmd, r, text); err != nil {
		return err
	}
	warnOfAudit(cmd, r.Audit)
	for _, f := range r.Forced {
		say(cmd, "warning: closed by force: %s", f.Why)
	}
	if r.Off {
		return &daemon.Refusal{Err: errors.New("cfwall is switched off: every port is open"), Hint: "switch it on: cfwall on", Exit: daemon.ExitUnprotected}
	}
	return nil
}
