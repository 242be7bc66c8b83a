package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/config"
)

func printCommand(o *options) *cobra.Command {
	var reference bool
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Prints the rules that the configuration means, for nft.",
		Long: `Prints the table that the configuration file means on this host, with the list
that is in force. It changes nothing and needs no privilege.`,
		Example: `  cfwall print > cfwall.nft && sudo nft -c -f cfwall.nft     does nft take it?
  cfwall print --reference-config     every key of the configuration, explained`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if reference {
				return o.show(cmd, nil, config.Reference)
			}
			e := o.engine(allWarnings(cmd))
			// What does not go with this host can be printed all the same.
			if err := e.Suppose(cmd.Context()); err != nil {
				return err
			}
			want, _, err := e.Want(time.Now())
			if err != nil {
				return err
			}
			return o.show(cmd, nil, auditComment(want)+want.String())
		},
	}
	cmd.Flags().BoolVar(&reference, "reference-config", false, "print a configuration file that explains every key instead")
	return cmd
}
