package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/daemon"
)

func confirmCommand(o *options) *cobra.Command {
	return o.addOutput(&cobra.Command{
		Use:   "confirm",
		Short: "Keeps what apply --confirm has put in force.",
		Long: `Keeps the configuration that cfwall apply --confirm has put in force. Run it
from a new login: an SSH session that was open before the change says nothing
about whether anybody can still log in, and is refused.`,
		Example: `  sudo cfwall apply --confirm 60s     first; then log in anew, and there:
  sudo cfwall confirm                 keep the configuration`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.change(cmd, slog.DiscardHandler, func(s daemon.Service) error {
				kept, err := s.Confirm(cmd.Context(), daemon.OwnSession())
				if err != nil {
					return err
				}
				return o.show(cmd, kept, "confirmed: the configuration stays in force\n"+cutText(kept.Cut))
			})
		},
	})
}

// try carries out an order to be confirmed. With a daemon this command may end
// at any time; without one, it is the daemon.
func (o *options) try(cmd *cobra.Command, order daemon.Order) error {
	if order.Confirm == 0 {
		return usage("such as: cfwall apply --confirm 60s", "--confirm needs a time from 1s to 1h")
	}
	client, err := daemon.Dial(o.paths)
	onTerminal := isTerminal(cmd.OutOrStdout())
	switch {
	case errors.Is(err, daemon.ErrNoDaemon) && onTerminal:
		return o.tryHere(cmd, order)
	case errors.Is(err, daemon.ErrNoDaemon):
		return o.change(cmd, slog.DiscardHandler, func(s daemon.Service) error {
			_, err := s.Apply(cmd.Context(), order) // it says why not
			return err
		})
	case err != nil:
		return err
	}
	report, err := client.Apply(cmd.Context(), order)
	if err != nil {
		return err
	}
	if err := o.showTrial(cmd, report, order); err != nil || report.Confirm == nil {
		return err
	}
	if !onTerminal {
		return verdict(daemon.ExitReverted)
	}
	t, err := o.awaitOutcome(cmd, order, report.Confirm.Since)
	return outcome(cmd, t, err)
}

// showTrial says what is on trial, if anything: not what was in force before.
func (o *options) showTrial(cmd *cobra.Command, r daemon.Report, order daemon.Order) error {
	if err := o.showReport(cmd, r); err != nil || r.Confirm == nil {
		return err
	}
	text := "Keep it: log in anew, and run there within " + within(order.Confirm) + ": cfwall confirm"
	if isTerminal(cmd.OutOrStdout()) {
		text += "\nCtrl-C goes back now."
	}
	say(cmd, "%s", text)
	return nil
}

func within(d time.Duration) string {
	if d > time.Minute && d%time.Minute == 0 {
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%g s", d.Seconds())
}

// outcome ends a command that has waited for a trial to end.
func outcome(cmd *cobra.Command, t daemon.Trial, err error) error {
	if err != nil {
		return err
	}
	if t.Reverted.IsZero() {
		say(cmd, "confirmed: the configuration stays in force")
		return nil
	}
	return &daemon.Refusal{Err: errors.New("not confirmed: the configuration before is in force again"),
		Hint: "mend the configuration, and try again: cfwall apply --confirm 60s", Exit: daemon.ExitReverted}
}

// tryHere lasts as long as the trial. The loss of the terminal ends neither, nor
// does Ctrl-Z stop them: whoever is stopped does not go back in time.
func (o *options) tryHere(cmd *cobra.Command, order daemon.Order) error {
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	options := daemon.Options{Paths: o.paths, Version: version(), Log: slog.New(graveWarnings(cmd)), Level: &slog.LevelVar{}}
	wasInForce := false
	t, err := daemon.Try(ctx, options, order, func(r daemon.Report) {
		_ = o.showTrial(cmd, r, order) // nobody may be there to read it
		if r.Confirm == nil {
			wasInForce = true
		}
	})
	if wasInForce {
		return err
	}
	if ctx.Err() != nil {
		say(cmd, "") // behind the ^C
	}
	return outcome(cmd, t, err)
}

// errSuperseded: somebody else has put another config on trial meanwhile, which is
// not this command's to wait for, nor to end.
var errSuperseded = &daemon.Refusal{Err: errors.New("another config has come on trial meanwhile, in place of this one"),
	Hint: "whose it is and until when: cfwall status", Exit: daemon.ExitReverted}

// awaitOutcome asks the daemon until the trial that began then is over, and has it
// go back on Ctrl-C. It outlives the daemon: one that was killed starts again.
func (o *options) awaitOutcome(cmd *cobra.Command, order daemon.Order, since time.Time) (daemon.Trial, error) {
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT)
	defer stop()
	late := time.Now().Add(order.Confirm + restartTime)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			say(cmd, "") // behind the ^C
			return o.goBack(cmd, since)
		case <-tick.C:
		}
		switch t, err := o.askTrial(ctx); {
		case err != nil && time.Now().After(late):
			return o.goBack(cmd, since)
		case err != nil: // the daemon is not back yet
		case isAnother(t, since):
			return t, errSuperseded
		case !t.Reverted.IsZero() || t.Deadline.IsZero():
			return t, nil
		}
	}
}

// restartTime is what a daemon that was killed may take to be back.
const restartTime = 5 * time.Second

func (o *options) askTrial(ctx context.Context) (daemon.Trial, error) {
	client, err := daemon.Dial(o.paths)
	if err != nil {
		return daemon.Trial{}, err
	}
	return client.Trial(ctx)
}

func isAnother(t daemon.Trial, since time.Time) bool {
	return !t.Since.IsZero() && !t.Since.Equal(since)
}

// goBack ends the trial that began then: through the daemon or, where none runs
// any more, here.
func (o *options) goBack(cmd *cobra.Command, since time.Time) (t daemon.Trial, err error) {
	err = o.change(cmd, graveWarnings(cmd), func(s daemon.Service) error {
		t, err = s.Trial(cmd.Context())
		switch {
		case err == nil && isAnother(t, since):
			err = errSuperseded
		case err == nil && t.Reverted.IsZero() && !t.Deadline.IsZero():
			t, err = s.GoBack(cmd.Context())
		}
		return err
	})
	return t, err
}
