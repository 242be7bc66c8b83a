package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
)

func reloadCommand(o *options) *cobra.Command {
	return o.addOutput(&cobra.Command{
		Use:   "reload",
		Short: "Has the daemon read its configuration again.",
		Long: `Has the daemon read its configuration again, and waits for the outcome. A file
that has errors, or that would lock SSH out, is refused and the policy in force
stays; so is mode tunnel while no tunnel is up.`,
		Example: "  sudo cfwall check && sudo cfwall reload     look for mistakes, then reload",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := daemon.Dial(o.paths)
			if errors.Is(err, daemon.ErrNoDaemon) {
				return &daemon.Refusal{Err: err, Exit: daemon.ExitError,
					Hint: "start it (" + daemon.HowToStart() + "), or apply the configuration once: cfwall apply"}
			}
			if err != nil {
				return err
			}
			report, err := client.Reload(cmd.Context(), daemon.NewOrder())
			if err != nil {
				return err
			}
			return o.showReport(cmd, report)
		},
	})
}
