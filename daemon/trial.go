package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/sshd"
	"github.com/cfwall/cfwall/systemd"
)

// Trial says when a config came into force that goes back at a deadline, unless
// it is confirmed, or when that has happened. It is zero where there is none.
type Trial struct {
	Since    time.Time `json:"since,omitzero"`
	Deadline time.Time `json:"deadline,omitzero"`
	Reverted time.Time `json:"reverted,omitzero"`
}

// A trial is a config that is in force until its deadline, unless it is
// confirmed; and after that the config file that is not to come into force by
// itself. It is on disk before the kernel hears of it, and whole: a daemon that
// starts needs nothing else to go on with it, or back.
type trial struct {
	Since    time.Time      `json:"since"`
	Deadline deadline       `json:"deadline"`
	Text     string         `json:"text"` // of the config on trial; once reverted, of the file that was left
	Forced   []Forced       `json:"forced,omitempty"`
	Sessions []sshd.Session `json:"sessions"` // of SSH, that were open before
	Before   before         `json:"before"`
	Reverted time.Time      `json:"reverted,omitzero"`

	unreadable error // why nothing of this is known
}

// before is what a trial goes back to.
type before struct {
	Text   string    `json:"text"` // of the config; an empty one is the default policy
	Forced []Forced  `json:"forced,omitempty"`
	Off    offSwitch `json:"off,omitzero"` // every port was open, by `cfwall off` or because there were no rules yet

	applied *applied // the very one, nil after a restart
}

// applied is a config with what this host made of it.
type applied struct {
	config   config.Config
	text     []byte
	problems []Problem
}

var errNotWhole = errors.New("it is not whole")

// loadTrial reads the record of a trial; nil if there is none.
func loadTrial(d durable.Disk, p Paths) *trial {
	b, err := d.Read(p.trial())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	t := &trial{}
	if err == nil {
		err = json.Unmarshal(b, t)
	}
	if err == nil && (t.Since.IsZero() || t.Deadline.isZero()) {
		err = errNotWhole
	}
	if err != nil {
		return &trial{unreadable: fmt.Errorf("reading %s: %w", p.trial(), err)}
	}
	return t
}

// pending holds while nothing is decided.
func (t *trial) pending() bool { return t != nil && t.unreadable == nil && t.Reverted.IsZero() }

// over holds from the deadline on, and after another boot: whatever made the
// host start again, nobody has confirmed that it can be reached.
func (t *trial) over(m moment) bool {
	return t.pending() && (t.Deadline.Boot != m.boot || t.Deadline.left(m) <= 0)
}

// leftOpen holds where nobody has given the command by which the ports are open:
// there were no rules before a trial, and it went back to that. After another boot
// that is over.
func (t *trial) leftOpen(off offSwitch, m moment) bool {
	return t != nil && !t.Reverted.IsZero() && t.Deadline.Boot != m.boot && off.Since.Equal(t.Since)
}

// knows holds for a session that was open before the change: that it still is
// does not show that anybody could log in. What tmux has kept of one, or a mosh,
// has no connection by which it was known then, but it is as old.
func (t *trial) knows(s sshd.Session) bool {
	begun := t.Deadline.Up - t.Deadline.For
	return s.Began > 0 && s.Began < begun || slices.ContainsFunc(t.Sessions, func(old sshd.Session) bool { return old.Local == s.Local && old.Remote == s.Remote })
}

func (t *trial) at(m moment) Trial {
	if t == nil || t.unreadable != nil {
		return Trial{}
	}
	return Trial{t.Since, t.Deadline.at(m), t.Reverted}
}

// problem says what is to be known of a trial.
func (t *trial) problem(m moment, p Paths) Problem {
	const again = "mend it, then: cfwall apply --confirm 60s, or cfwall apply"
	switch {
	case t.unreadable != nil:
		return Problem{"confirm-unreadable", Degraded,
			"whether a config waits to be confirmed is not known, so the last one that worked is in force: " + t.unreadable.Error(),
			"look at " + p.Config + ", then: cfwall apply"}
	case !t.Reverted.IsZero():
		return Problem{"reverted", Degraded,
			fmt.Sprintf("%s was applied for a trial at %s and not confirmed: in force is the config before it", p.Config, clockText(t.Since)), again}
	case t.over(m):
		return Problem{"confirm-overdue", Degraded,
			fmt.Sprintf("the config was to be confirmed by %s, and what was to go back then has ended", clockText(t.at(m).Deadline)),
			"start the daemon, which goes back first: " + HowToStart()}
	default:
		return Problem{"unconfirmed", Degraded,
			fmt.Sprintf("the config is on trial, and goes back at %s unless it is confirmed", clockText(t.at(m).Deadline)),
			"log in anew, in another terminal, and run there: cfwall confirm"}
	}
}

func clockText(t time.Time) string { return t.Format(time.RFC3339) }

// logTrial says until when the config can be confirmed.
func (e *Engine) logTrial(what string) {
	systemd.TrialStarted.Log(e.log, what+": it goes back unless it is confirmed", "until", clockText(e.trial.at(e.clock()).Deadline))
}

// recallTrial logs what a daemon that starts finds of a trial. What is to be done
// now has lines of its own.
func (e *Engine) recallTrial() {
	t := e.trial
	switch {
	case t == nil || t.over(e.clock()):
	case t.pending():
		e.logTrial("the trial of a config goes on")
	case t.unreadable != nil:
		systemd.StateFailed.Log(e.log, "whether a config waits to be confirmed is not known: the last one that worked is in force", "error", t.unreadable)
	default:
		systemd.TrialReverted.Log(e.log, "the config file was not confirmed: the config before it is in force", "tried_at", clockText(t.Since))
	}
}

func (e *Engine) trialProblems(now time.Time) []Problem {
	if e.trial == nil {
		return nil
	}
	return []Problem{e.trial.problem(e.at(now), e.paths)}
}
