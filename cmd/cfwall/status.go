package main

import (
	"context"
	"io"
	"log/slog"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/daemon"
)

func statusCommand(o *options) *cobra.Command {
	var watch bool
	cmd := o.addOutput(&cobra.Command{
		Use:   "status",
		Short: "Says whether this host is protected.",
		Long: `Says whether this host is protected, from what the kernel holds now. The exit
code is 0 if it is, 3 if it is but something needs care, 4 if it is not, as with
audit = true. Where the config file is not the one in force, it shows the lines.`,
		Example: `  sudo cfwall status                           is this host protected?
  sudo cfwall status --watch                   again every two seconds
  sudo cfwall status -o json | jq -r .verdict  for a script`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return o.watchStatus(cmd)
			}
			s, err := o.showStatus(cmd, "")
			if err != nil {
				return err
			}
			return exitOf(s)
		},
	})
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again every two seconds, until Ctrl-C")
	return cmd
}

func (o *options) showStatus(cmd *cobra.Command, before string) (daemon.Status, error) {
	service, err := o.reader(slog.DiscardHandler) // it shows the problems
	if err != nil {
		return daemon.Status{}, err
	}
	s, err := service.Status(cmd.Context())
	if err != nil {
		return s, err
	}
	return s, o.show(cmd, s, before+statusText(cmd.OutOrStdout(), s, time.Now()))
}

// clearScreen goes home and erases what is there (ECMA-48: CUP, ED).
const clearScreen = "\x1b[H\x1b[2J"

func (o *options) watchStatus(cmd *cobra.Command) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	before := "\n"
	if isTerminal(cmd.OutOrStdout()) {
		before = clearScreen
	}
	return everyTwoSeconds(ctx, func() error {
		_, err := o.showStatus(cmd, before)
		return err
	})
}

func everyTwoSeconds(ctx context.Context, f func() error) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		if err := f(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func exitOf(s daemon.Status) error {
	switch s.Verdict {
	case daemon.VerdictProtected:
		return nil
	case daemon.VerdictDegraded:
		return verdict(daemon.ExitDegraded)
	}
	return verdict(daemon.ExitUnprotected)
}

func headline(w io.Writer, s daemon.Status) string {
	switch s.Verdict {
	case daemon.VerdictProtected:
		return coloured(w, green, "● PROTECTED")
	case daemon.VerdictDegraded:
		return coloured(w, yellow, "▲ DEGRADED")
	}
	return coloured(w, red, "✖ NOT PROTECTED")
}
