package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
	"github.com/cfwall/cfwall/ipranges"
)

func acceptCommand(o *options) *cobra.Command {
	return o.settle("accept", "Puts the list in force that is held back.", daemon.Service.AcceptRanges)
}

func rollbackCommand(o *options) *cobra.Command {
	return o.settle("rollback", "Puts the previous list in force again.", daemon.Service.RollbackRanges)
}

// settle makes a command by which a human decides about the list.
func (o *options) settle(name, short string, decide func(daemon.Service, context.Context) (ipranges.Outcome, error)) *cobra.Command {
	return o.addOutput(&cobra.Command{
		Use:     name,
		Short:   short,
		Example: "  cfwall ranges diff\n  sudo cfwall ranges " + name,
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
