package main

import (
	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
)

// surveyCommand is for the unit alone, which runs it as root before the daemon.
func surveyCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:    "survey",
		Short:  "Leaves what root sees of SSH for the daemon, which is not root.",
		Hidden: true,
		Args:   noArguments,
		RunE:   func(*cobra.Command, []string) error { return daemon.Survey(o.paths) },
	}
}
