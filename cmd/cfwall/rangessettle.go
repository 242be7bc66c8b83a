package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
	"github.com/cfwall/cfwall/ipranges"
)

func acceptCommand(o *options) *cobra.Command {
	return o.settle("accept", "Puts the list in force that is held back.", `Puts the list in force that is held back: because more than [ranges] max_change
of the addresses would change, because the API and the text pages differ, or
because it was rolled back. One that is implausible in itself is refused.`, daemon.Service.AcceptRanges)
}

func rollbackCommand(o *options) *cobra.Command {
	return o.settle("rollback", "Puts the previous list in force again.", `Puts the previous list in force again. The one that it replaces is held, so that
no fetch brings it back before cfwall ranges accept does.`, daemon.Service.RollbackRanges)
}

// settle makes a command by which a human decides about the list.
func (o *options) settle(name, short, long string, decide func(daemon.Service, context.Context) (ipranges.Outcome, error)) *cobra.Command {
	return o.addOutput(&cobra.Command{
		Use:     name,
		Short:   short,
		Long:    long,
		Example: fmt.Sprintf("  sudo cfwall ranges diff         what would that change?\n  sudo cfwall ranges %-8s     do it", name),
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.change(cmd, graveWarnings(cmd), func(s daemon.Service) error {
				outcome, err := decide(s, cmd.Context())
				if err != nil {
					return err
				}
				return o.showOutcome(cmd, outcome)
			})
		},
	})
}

func (o *options) showOutcome(cmd *cobra.Command, outcome ipranges.Outcome) error {
	return o.show(cmd, outcome, fmt.Sprintf("%s\n%s", outcomeText(outcome), differenceText(outcome.Added, outcome.Removed)))
}
