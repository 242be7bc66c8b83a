package daemon

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/sshd"
	"github.com/cfwall/cfwall/systemd"
)

// The bounds of a trial: nobody logs in anew within less, and whoever needs more
// has forgotten it.
const (
	shortestTrial = time.Second
	longestTrial  = time.Hour
)

// try puts the config file in force until it is confirmed, or for a time. What
// to go back to is on disk before. Open says that there are no rules yet. A config
// that is in force has nothing to go back to, and stays: no trial begins.
func (e *Engine) try(ctx context.Context, o Order, open bool) (Report, error) {
	if o.Confirm < shortestTrial || o.Confirm > longestTrial {
		return Report{}, refuse(ExitUsage, "such as: cfwall apply --confirm 60s", "a trial lasts from 1s to 1h, not %s", o.Confirm)
	}
	c, text, err := e.readConfig()
	if err != nil {
		return Report{}, err
	}
	forced, err := e.refused(ctx, c, o)
	if err != nil {
		return Report{}, err
	}
	if e.lastErr != nil && e.configText != nil && !e.trial.pending() {
		return Report{}, refuse(ExitUnprotected, "put a config in force that works (cfwall apply), then try another",
			"nothing was changed, because there is nothing to go back to: the present config has never been in force: %w", e.lastErr)
	}
	if !open && e.isInForce(c) {
		e.use(c, text)
		e.keepForced(forcedOf(forced))
		report, err := e.Pass(ctx)
		report.Forced = e.state.forced
		return report, err
	}
	if err := e.begin(e.newTrial(string(text), forcedOf(forced), o, open)); err != nil {
		return Report{}, err
	}
	e.use(c, text)
	e.keepForced(e.trial.Forced)
	e.switchOff(offSwitch{})
	report, err := e.Pass(ctx)
	if err != nil {
		return e.giveUp(ctx, err)
	}
	e.logTrial("a config is in force for a trial")
	waiting := e.trial.at(e.clock())
	report.Forced, report.Confirm = e.state.forced, &waiting
	return report, nil
}

// isInForce holds for a config that means what is in force for good.
func (e *Engine) isInForce(c config.Config) bool {
	return e.config.Equal(c) && !e.trial.pending() && !e.state.isOff(e.clock())
}

// newTrial is about what is in force now or, where that is on trial itself, about
// what was before. Logins since then have shown nothing about the new config.
func (e *Engine) newTrial(text string, forced []Forced, o Order, open bool) *trial {
	now := e.clock()
	t := &trial{Since: now.wall.Round(0), Deadline: now.in(o.Confirm), Text: text, Forced: forced, Sessions: e.sessions(o)}
	if e.trial.pending() {
		t.Before = e.trial.Before
		return t
	}
	t.Before = before{Text: string(e.inForce), Forced: e.state.forced, applied: &applied{e.config, e.inForce, slices.Clone(e.configProblems)}}
	switch {
	case e.state.isOff(now):
		t.Before.Off = e.state.off
	case open:
		t.Before.Off = offSwitch{Since: t.Since}
	}
	return t
}

// sessions lists the connections to servers of SSH, with those that never leave
// this host: a tunnel may bring them.
func (e *Engine) sessions(o Order) []sshd.Session {
	found, _ := e.sshFor(e.config.Policy, o) // what is found counts
	all := slices.Clone(found.Sessions)
	connections, _ := e.connections()
	for _, c := range connections {
		if slices.ContainsFunc(found.Servers, func(s sshd.Server) bool { return s.Address.Port() == c.Local.Port() }) {
			all = append(all, sshd.Session{Local: c.Local, Remote: c.Remote})
		}
	}
	if o.Session.Remote.IsValid() {
		all = append(all, o.Session)
	}
	return all
}

// begin writes the record of a trial down. Where that fails there is no trial,
// nor a part of its record that a restart could find.
func (e *Engine) begin(t *trial) error {
	err := e.keep(e.paths.trial(), t)
	if err == nil {
		e.trial = t
		return nil
	}
	e.keepTrial()
	return refuse(ExitError, e.diskCure(err)+", and repeat the command",
		"nothing was changed, because what to go back to could not be written down: %w", err)
}

// keepTrial writes down what is known of a trial, that there is none too.
func (e *Engine) keepTrial() {
	if e.trial == nil || e.trial.unreadable != nil {
		_ = e.removeTrial()
		return
	}
	_ = e.keep(e.paths.trial(), e.trial)
}

func (e *Engine) removeTrial() error {
	return e.write(e.paths.trial(), func(d durable.Disk) error { return durable.Remove(d, e.paths.trial()) })
}

// giveUp ends a trial whose config the kernel does not take.
func (e *Engine) giveUp(ctx context.Context, failed error) (Report, error) {
	report, err := e.goBack(ctx)
	if err != nil {
		return report, refuse(ExitUnprotected, cureOf(err), "the config could not be put in force (%w), nor the one before it: %w", failed, err)
	}
	return report, refuse(ExitReverted, cureOf(failed), "the config could not be put in force, so the one before is in force again: %w", failed)
}

// goBack puts in force what was there before a trial. The kernel comes first: a
// disk that does not answer must not hold it up, and a record of a trial that is
// over leads here again.
//
// Whoever asked for it may be gone: a Ctrl-C, or the end of the daemon, must not
// leave it half done.
func (e *Engine) goBack(ctx context.Context) (Report, error) {
	ctx = context.WithoutCancel(ctx)
	t, now := e.trial, e.clock()
	systemd.TrialReverted.Log(e.log, "the config was not confirmed: the one before it comes back", "tried_at", clockText(t.Since))
	t.Reverted = now.wall.Round(0)
	e.ending.due = false // of connections that the trial was to end; what it let in ends with it
	e.state.forced = t.Before.Forced
	if !t.Before.Off.Since.IsZero() && t.Deadline.Boot == now.boot { // a host that starts is never opened by itself
		e.state.off = t.Before.Off
	}
	if was := t.Before.applied; was != nil {
		e.config, e.inForce, e.configText, e.configProblems = was.config, was.text, nil, was.problems
	} else {
		e.reject()
		e.LoadConfigOrFallback()
	}
	report, err := e.Pass(ctx)
	e.keepReverted()
	return report, err
}

// stayOn has a trial go back to the config before it, and not to open ports:
// somebody has said meanwhile that they are to be closed.
func (e *Engine) stayOn() {
	if e.trial.pending() && !e.trial.Before.Off.Since.IsZero() {
		e.trial.Before.Off = offSwitch{}
		e.keepTrial() // what could not be written down is written again by the next pass
	}
}

// switchOff opens the ports or, with none, closes them, and writes that down.
func (e *Engine) switchOff(off offSwitch) {
	e.state.off = off
	if err := e.keep(e.paths.off(), off); err != nil {
		systemd.StateFailed.Log(e.log, "whether cfwall is switched off could not be written down", "error", err)
	}
}

// keepReverted writes down that a trial was gone back from.
func (e *Engine) keepReverted() {
	e.reject()
	e.keepForced(e.state.forced)
	e.switchOff(e.state.off)
	if err := e.keep(e.paths.trial(), e.trial); err != nil {
		systemd.StateFailed.Log(e.log, "that the config was gone back from could not be written down: a restart goes back again", "error", err)
	}
}

// reject remembers the config file as it is, so that a restart does not put it in
// force by itself.
func (e *Engine) reject() {
	if text, err := e.readConfigFile(e.paths.Config); err == nil {
		e.trial.Text = string(text)
	}
}

// rejected holds while the config file is one that was not confirmed.
func (e *Engine) rejected() bool {
	if e.trial == nil || e.trial.pending() {
		return false
	}
	text, err := e.readConfigFile(e.paths.Config)
	return e.trial.unreadable != nil || err != nil || string(text) == e.trial.Text
}

// firstConfig is what to begin with: the file, but for one on trial or one that
// was not confirmed.
func (e *Engine) firstConfig() (config.Config, []byte, error) {
	switch {
	case e.trial.pending():
		return parseConfig(e.trial.Text, e.paths.Config)
	case !e.rejected():
		return e.readConfig()
	case e.trial.unreadable == nil:
		return parseConfig(e.trial.Before.Text, e.paths.Config)
	}
	last, err := e.readStateFile(e.paths.lastConfig())
	if err != nil {
		return e.readConfig()
	}
	return parseConfig(string(last), e.paths.lastConfig())
}

func parseConfig(text, name string) (config.Config, []byte, error) {
	c, err := config.Parse(bytes.NewReader([]byte(text)), name)
	return c, []byte(text), err
}

// settle begins with what is on disk. A trial that is over is gone back from
// before anything else.
func (e *Engine) settle(ctx context.Context) {
	if e.trial.leftOpen(e.state.off, e.clock()) {
		e.switchOff(offSwitch{})
	}
	if e.trial.over(e.clock()) {
		_, _ = e.goBack(ctx) // it says in the log how it went, and the next pass tries again
		return
	}
	e.LoadConfigOrFallback()
	if e.trial.pending() {
		e.postponeEnding()
	}
}

// postponeEnding finds out again which connections a trial is to end once it is
// confirmed: those that the policy before it let pass.
func (e *Engine) postponeEnding() {
	want, _, err := e.Want(time.Now())
	if err != nil {
		return // then nothing is ended, which the next change makes good for
	}
	if !e.trial.Before.Off.Since.IsZero() {
		e.ending.next(nil, want)
		return
	}
	was := *e
	if was.config, _, err = parseConfig(e.trial.Before.Text, e.paths.Config); err != nil {
		return
	}
	if old, _, err := was.Want(time.Now()); err == nil {
		e.ending.next(&old, want)
	}
}

// forgetTrial removes the record of a trial, which is how one is confirmed.
func (e *Engine) forgetTrial() error {
	if e.trial == nil {
		return nil
	}
	if err := e.removeTrial(); err != nil {
		systemd.StateFailed.Log(e.log, "the record of a trial could not be removed", "error", err)
		return err
	}
	e.trial = nil
	return nil
}

// untilLook is how long to wait before the next look at a trial: timers stand
// still while a host is suspended, and its deadline does not.
func (e *Engine) untilLook() time.Duration {
	return min(e.trial.Deadline.left(e.clock()), 500*time.Millisecond)
}

// waits refuses another change while a trial is not decided.
func (e *Engine) waits() error {
	if !e.trial.pending() {
		return nil
	}
	return refuse(ExitReverted, "log in anew and confirm it (cfwall confirm), wait until then, or try another config: cfwall apply --confirm 60s",
		"a config is on trial, and goes back at %s unless it is confirmed", clockText(e.trial.at(e.clock()).Deadline))
}

// Trial implements Service.
func (e *Engine) Trial(context.Context) (Trial, error) {
	if e.trial != nil && e.trial.unreadable != nil { // which is not that it was confirmed
		p := e.trial.problem(e.clock(), e.paths)
		return Trial{}, refuse(ExitDegraded, p.Cure, "%s", p.Text)
	}
	return e.trial.at(e.clock()), nil
}

// Kept says which trial has been confirmed.
type Kept struct {
	Since time.Time `json:"since"`
	Cut   int       `json:"cut"` // live connections that it does not admit, and that are closed now
}

// Confirm implements Service.
func (e *Engine) Confirm(ctx context.Context, own sshd.Session) (Kept, error) {
	if err := e.mayConfirm(own); err != nil {
		return Kept{}, err
	}
	if _, err := e.Pass(ctx); err != nil {
		return Kept{}, refuse(ExitUnprotected, cureOf(err), "it is not confirmed, because it is not in force: %w", err)
	}
	kept := Kept{Since: e.trial.Since}
	if err := e.forgetTrial(); err != nil {
		return Kept{}, refuse(ExitError, e.diskCure(err)+", and repeat the command in time", "it is not confirmed, because that could not be written down: %w", err)
	}
	e.remember()
	kept.Cut = e.cut(ctx)
	for closed := kept.Cut; closed > 0 && e.ending.due; kept.Cut += closed {
		closed = e.cut(ctx)
	}
	systemd.TrialConfirmed.Log(e.log, "the config was confirmed", "tried_at", clockText(kept.Since))
	return kept, nil
}

func (e *Engine) mayConfirm(own sshd.Session) error {
	const again = "try it again: cfwall apply --confirm 2m"
	t, now := e.trial, e.clock()
	switch {
	case t == nil || t.unreadable != nil:
		return refuse(ExitError, "what is in force: cfwall status", "there is nothing to confirm")
	case !t.Reverted.IsZero():
		return refuse(ExitReverted, again, "too late: the config before it is in force again since %s", clockText(t.Reverted))
	case t.over(now):
		return refuse(ExitReverted, again, "too late: it was to be confirmed by %s", clockText(t.at(now).Deadline))
	case e.state.isOff(now):
		return refuse(ExitUnprotected, "cfwall on, then log in anew and confirm", "cfwall is switched off: that you could log in shows nothing")
	case own.Remote.IsValid() && t.knows(own):
		return refuse(ExitError, "log in anew, in another terminal, and run it there: that shows that the way in still works",
			"this SSH session is older than the change")
	}
	return nil
}

// GoBack implements Service.
func (e *Engine) GoBack(ctx context.Context) (Trial, error) {
	if !e.trial.pending() {
		return Trial{}, refuse(ExitError, "what is in force: cfwall status", "there is nothing to go back from")
	}
	_, err := e.goBack(ctx)
	return e.trial.at(e.clock()), err
}

// try is Engine's, with what the daemon has to do besides.
func (d *Daemon) try(ctx context.Context, o Order) (Report, error) {
	source, was := d.engine.config.Ranges.Source, d.engine.trial
	report, err := d.engine.try(ctx, o, false)
	if err != nil {
		systemd.ConfigRefused.Log(d.opts.Log, "the config was not taken over for a trial", "error", err)
	}
	if d.engine.trial != was || err == nil {
		d.follow(ctx, source, report, d.engine.lastErr)
	}
	return report, err
}

func (d *Daemon) goBack(ctx context.Context) (Trial, error) {
	if !d.engine.trial.pending() {
		return d.engine.GoBack(ctx) // which refuses
	}
	source := d.engine.config.Ranges.Source
	report, err := d.engine.goBack(ctx)
	d.follow(ctx, source, report, err)
	return d.engine.trial.at(d.engine.clock()), err
}

// stopTrial goes back where the daemon is told to end: nobody else would do it in
// time. One that is killed goes on with the trial when it is started again.
func (d *Daemon) stopTrial(ctx context.Context) {
	if d.engine.trial.pending() {
		_, _ = d.goBack(ctx) // it says in the log how it went
	}
}
