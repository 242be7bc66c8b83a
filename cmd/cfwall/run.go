package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/daemon"
	"github.com/cfwall/cfwall/systemd"
)

// lastWords is how long the daemon waits at its end for the log to be read.
const lastWords = 500 * time.Millisecond

func runCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Keeps the firewall true: the daemon, in the foreground.",
		Long: `Puts the rules in force from what is on disk, says so to systemd, and then
keeps the rules and the list of Cloudflare's networks up to date. SIGHUP reloads
the configuration. SIGTERM and SIGINT end the daemon; the rules stay in force.`,
		Example: "  sudo cfwall run     Ctrl-C ends it; the rules stay in force",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, unix.SIGHUP)
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGINT)
			context.AfterFunc(ctx, stop) // a second signal ends it at once

			var level slog.LevelVar
			lines := systemd.NewQueue() // who reads the log must not hold up the daemon
			defer lines.Flush(lastWords)
			log := lines.Logger(os.Stderr, &level)
			slog.SetDefault(log) // of net/http, whose lines would have a time of their own
			notify := systemd.NewNotifier()
			notify.Log = log
			err := daemon.Run(ctx, daemon.Options{
				Paths:   o.paths,
				Version: version(),
				Log:     log,
				Level:   &level,
				Reload:  reload,
				Notify:  notify,
			})
			if err != nil {
				return verdict(report(lines.Writer(os.Stderr), err))
			}
			return nil
		},
	}
}
