package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
)

func offCommand(o *options) *cobra.Command {
	var lasting time.Duration
	cmd := o.addOutput(&cobra.Command{
		Use:   "off",
		Short: "Opens every port to everybody.",
		Long: `Opens every port to everybody, by removing cfwall's rules, until cfwall on. With
--for the daemon closes the ports again when the time is over.`,
		Example: "  sudo cfwall off --for 15m\n  sudo cfwall off",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("for") && lasting < time.Second {
				return usage("such as: cfwall off --for 15m", "--for must be a second or more")
			}
			return o.change(cmd, graveWarnings(cmd), func(s daemon.Service) error {
				off, err := s.Off(cmd.Context(), lasting)
				if err != nil {
					return err
				}
				return o.show(cmd, off, offText(off, time.Now()))
			})
		},
	})
	cmd.Flags().DurationVar(&lasting, "for", 0, "how long: 90s, 15m, 1h (without it, until cfwall on)")
	return cmd
}

func offText(off daemon.Off, now time.Time) string {
	until := "UNTIL YOU SWITCH IT ON"
	if !off.Until.IsZero() {
		until = fmt.Sprintf("UNTIL %s (%s)", clock(off.Until, now), in(off.Until, now))
	}
	return fmt.Sprintf("OFF: EVERY PORT IS OPEN TO EVERYBODY %s\nclose them again: cfwall on\n", until)
}

func onCommand(o *options) *cobra.Command {
	return o.addOutput(&cobra.Command{
		Use:     "on",
		Short:   "Puts the rules in force again after off.",
		Example: "  sudo cfwall on",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.change(cmd, graveWarnings(cmd), func(s daemon.Service) error {
				report, err := s.On(cmd.Context())
				if err != nil {
					return err
				}
				return o.showReport(cmd, report)
			})
		},
	})
}
