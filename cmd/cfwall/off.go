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
		Long: `Opens every port to everybody, by removing cfwall's rules, until cfwall on. That
lasts, after a reboot as well. With --for the daemon closes the ports again when
the time is over. What other tables close stays closed.`,
		Example: `  sudo cfwall off --for 15m     open for a while
  sudo cfwall off               open until cfwall on`,
		Args: noArguments,
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
		Use:   "on",
		Short: "Puts the rules in force again after off.",
		Long: `Puts the rules in force again after cfwall off, whether or not its time is over,
reads them back and compares them.`,
		Example: "  sudo cfwall on     close the ports",
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
