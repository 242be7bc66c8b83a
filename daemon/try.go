package daemon

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Try carries out an order to be confirmed where no daemon runs: it is the
// daemon until the trial is over, and goes back when the context ends. Begun is
// called once the config is in force; that it does not return holds up nothing.
// Where the config was in force before there is no trial, and all has been told.
func Try(ctx context.Context, o Options, order Order, begun func(Report)) (Trial, error) {
	release, err := o.Paths.acquire("apply --confirm")
	if err != nil {
		return Trial{}, err
	}
	defer release()
	table, err := holdTable(ctx, o)
	if err != nil {
		return Trial{}, err
	}
	defer table.Close()
	d := newDaemon(NewEngine(o.Paths, o.Version, o.Log), o)
	d.engine.table = table
	d.engine.LoadState()
	open, err := d.engine.loadApplied(ctx)
	if err != nil {
		return Trial{}, err
	}
	report, err := d.engine.try(ctx, order, open)
	if err != nil {
		return Trial{}, err
	}
	if report.Confirm == nil {
		begun(report)
		return Trial{}, nil
	}
	told := make(chan struct{})
	go func() { // who writes to a terminal that was stopped (Ctrl-S) waits for as long
		defer close(told)
		begun(report)
	}()
	t, err := d.serveTrial(ctx, report)
	select {
	case <-told:
	case <-time.After(time.Second):
	}
	return t, err
}

// loadApplied takes over the config that is in force without a daemon: the last
// one that was applied. Open says that there is none.
func (e *Engine) loadApplied(ctx context.Context) (open bool, err error) {
	e.settle(ctx)
	if e.trial.pending() {
		return false, nil
	}
	if !e.rejected() {
		e.config, e.inForce, _ = e.lastConfig()
		e.configText, e.configProblems = nil, nil
	}
	host, err := e.facts(e.config.Policy)
	if err != nil {
		return false, err
	}
	have, err := e.table.Read(ctx, familyOf(host))
	return have.Table == nil, err
}

// serveTrial runs the daemon's loop and its control socket until a trial is over.
func (d *Daemon) serveTrial(outer context.Context, begun Report) (Trial, error) {
	ctx, end := context.WithCancel(context.WithoutCancel(outer))
	defer end()
	d.forTrial = true
	if err := d.listen(ctx); err != nil {
		_, errBack := d.engine.goBack(ctx)
		return Trial{}, errors.Join(err, errBack)
	}
	defer d.closeControl()
	stop := context.AfterFunc(outer, func() {
		_ = d.do(ctx, func(ctx context.Context) { _, _ = d.goBack(ctx) }) // it says in the log how it went
		time.AfterFunc(longestPass, end)                                  // for the passes after one that failed
	})
	defer stop()
	d.passed(begun, nil)
	d.startFetching()
	d.loop(ctx, nil, nil)
	return d.engine.trial.at(d.engine.clock()), errors.Join(d.engine.lastErr, shutDown(d.control))
}

// trialGoesOn holds until a trial is decided, and what was before it is in force:
// nobody else would try again what failed.
func (d *Daemon) trialGoesOn() bool { return d.engine.trial.pending() || d.engine.lastErr != nil }

// shutDown lets who has ended the trial hear of it.
func shutDown(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = server.Shutdown(ctx)
	return server.Close()
}
