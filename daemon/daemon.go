package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/ipranges"
	"github.com/cfwall/cfwall/resolvers"
	"github.com/cfwall/cfwall/systemd"
)

// Options are what the daemon is started with.
type Options struct {
	Paths   Paths
	Version string
	Log     *slog.Logger
	Level   *slog.LevelVar    // follows the config
	Reload  <-chan os.Signal  // SIGHUP
	Notify  *systemd.Notifier // may be nil

	wrap func(Table) Table // of tests: stands between the daemon and the kernel
}

// Daemon keeps the table what it should be for as long as it runs. One
// goroutine, the loop, owns everything; others hand it tasks.
type Daemon struct {
	engine *Engine
	opts   Options
	tasks  chan func(context.Context)
	rules  rulesWatch    // nil: changes by others are not seen at once
	brake  *rate.Limiter // of repairs
	tunnel tunnelWatch

	passAt    time.Time         // when the next pass is due
	alarm     *rate.Reservation // brings it forward after what others have done to the table; nil: none
	fetchAt   time.Duration     // when the next fetch is due, after the host's start
	triedAt   time.Duration     // when the last one ended, after the host's start
	fetching  bool
	failures  int    // passes that failed in a row
	announced string // the status line that systemd was last told
	logged    string // what of it was last news for the log

	noTextfile, noWatch recurrent

	metricsAddress string
	metricsServer  *http.Server

	control  *http.Server
	forTrial bool // it ends with the trial that is pending
}

// sweepInterval is how often a pass is done though nothing is known to have changed.
const sweepInterval = time.Minute

// Run enforces the policy until the context ends, and leaves the rules in
// force then. It returns an error only where it cannot begin to work.
func Run(ctx context.Context, o Options) error {
	release, err := o.Paths.acquire("run")
	if err != nil {
		return newDaemon(NewEngine(o.Paths, o.Version, o.Log), o).closeWithoutLock(ctx, err)
	}
	defer release()
	table, err := holdTable(ctx, o)
	if err != nil {
		return err
	}
	defer table.Close()
	d := newDaemon(NewEngine(o.Paths, o.Version, o.Log), o)
	if d.engine.table = table; o.wrap != nil {
		d.engine.table = o.wrap(table)
	}
	d.engine.self = Process{Running: true, PID: os.Getpid(), Version: o.Version}
	hostChanged, err := kernel.WatchHost(ctx) // before the first look, so that no change is missed
	if err != nil {
		o.Log.Error("interfaces cannot be watched; changes are seen within "+sweepInterval.String(), "error", err)
	}
	resolversChanged, err := watchResolvers(ctx)
	if err != nil {
		o.Log.Error("the files that name DNS servers cannot be watched; changes are seen within "+sweepInterval.String(), "error", err)
	}
	if err := d.start(ctx); err != nil {
		return err
	}
	if err := d.listen(ctx); err != nil {
		return err
	}
	defer d.closeControl()
	d.listenMetrics(ctx)
	defer d.closeMetrics()
	systemd.Started.Log(o.Log, "started", "version", o.Version)
	d.announce()
	o.Notify.Ready(d.announced)
	d.loop(ctx, hostChanged, resolversChanged)
	d.stopTrial(ctx)
	o.Notify.Stopping()
	systemd.Stopped.Log(o.Log, "stopping; "+d.whatStays())
	return nil
}

// whatStays is how the end of the daemon leaves this host.
func (d *Daemon) whatStays() string {
	if d.engine.state.isOff(d.engine.clock()) {
		return "every port stays open (cfwall off)"
	}
	return "the rules stay in force"
}

func newDaemon(e *Engine, o Options) *Daemon {
	return &Daemon{engine: e, opts: o, tasks: make(chan func(context.Context)), brake: newBrake()}
}

// holdTable opens the socket that the table is held by: the first netlink socket
// of the process, see kernel.Hold.
func holdTable(ctx context.Context, o Options) (*kernel.Kernel, error) {
	table := kernel.New()
	err := table.Hold(ctx)
	if errors.Is(err, kernel.ErrPermission) || errors.Is(err, kernel.ErrUnsupported) {
		return nil, impossible(err)
	}
	if err != nil {
		o.Log.Error("the table cannot be held against other programs", "error", err)
	}
	return table, nil
}

// watchResolvers begins by reading, which must not keep the rules from coming into force.
func watchResolvers(ctx context.Context) (<-chan struct{}, error) {
	return patiently(newPatient("the disk", startPatience), "/etc/resolv.conf", func(context.Context) (<-chan struct{}, error) {
		return resolvers.Watch(ctx, "/")
	})
}

// closeWithoutLock enforces the policy once where the runtime directory cannot
// be used: closed is safe. What keeps the rules true needs a lock.
func (d *Daemon) closeWithoutLock(ctx context.Context, err error) error {
	if errors.Is(err, errRunning) {
		return err
	}
	if d.start(ctx) != nil || d.engine.lastErr != nil {
		d.announce()
		return err
	}
	d.opts.Log.Error("the rules are in force as they are now, but nothing keeps them true", "error", err)
	return err
}

// start enforces what is on disk, before anything touches the network. What no
// later try can mend ends the daemon.
func (d *Daemon) start(ctx context.Context) error {
	d.engine.LoadState()
	d.engine.makeState()
	if os.Geteuid() != 0 {
		d.engine.survey = d.engine.readSurvey()
	}
	d.engine.recallTrial()
	d.engine.settle(ctx)
	d.opts.Level.Set(d.engine.config.Log.Level)
	d.pass(ctx)
	d.engine.keepCounted()
	d.engine.hurry()
	switch err := d.engine.lastErr; {
	case errors.Is(err, kernel.ErrPermission), errors.Is(err, kernel.ErrUnsupported):
		return impossible(err)
	case errors.Is(err, kernel.ErrForeign):
		return Explain(err)
	}
	d.startFetching()
	return nil
}

// impossible is an error that no other start mends: its exit code keeps systemd
// from trying for ever (RestartPreventExitStatus=).
func impossible(err error) error {
	r := *refusalOf(err)
	r.Exit = ExitUnprotected
	if errors.Is(err, kernel.ErrPermission) {
		r.Hint = "run it as root (sudo cfwall run); in a container, grant it CAP_NET_ADMIN (--cap-add NET_ADMIN)"
	}
	return &r
}

func (d *Daemon) loop(ctx context.Context, hostChanged, resolversChanged <-chan struct{}) {
	for !d.forTrial || d.trialGoesOn() {
		if !time.Now().Before(d.nextDue()) && ctx.Err() == nil {
			d.due(ctx) // before any question, however many ask
			d.announce()
		}
		timer := time.NewTimer(time.Until(d.nextDue()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-d.opts.Reload:
			_, _ = d.reload(ctx, Order{}) // it says in the log how it went
		case task := <-d.tasks:
			task(ctx)
		case _, ok := <-d.rulesNews():
			d.rulesChanged(ok)
		case _, ok := <-hostChanged:
			if !ok {
				hostChanged = nil // the sweep goes on
			}
			if !ok && ctx.Err() == nil {
				d.opts.Log.Error("interfaces are no longer watched; changes are seen within " + sweepInterval.String())
			}
			d.hostChanged()
		case _, ok := <-resolversChanged:
			if !ok {
				resolversChanged = nil
			}
			d.passAt = earlier(d.passAt, time.Now().Add(settle))
		case <-timer.C:
			d.due(ctx)
		}
		timer.Stop()
		d.announce()
	}
}

func (d *Daemon) nextDue() time.Time {
	next := d.passAt
	if !d.fetching {
		next = earlier(next, time.Now().Add(d.fetchIn()))
	}
	if d.engine.trial.pending() {
		next = earlier(next, time.Now().Add(d.engine.untilLook()))
	}
	return next
}

func (d *Daemon) due(ctx context.Context) {
	if d.engine.trial.over(d.engine.clock()) {
		_, _ = d.goBack(ctx) // it says in the log how it went
	}
	if !time.Now().Before(d.passAt) {
		d.pass(ctx)
		d.watchTunnel(ctx)
	}
	if !d.fetching && d.fetchIn() <= 0 {
		d.beginFetch(ctx)
	}
}

// settle is how long changes of interfaces are gathered: container engines
// make several at once.
const settle = 20 * time.Millisecond

func (d *Daemon) hostChanged() {
	d.passAt = earlier(d.passAt, time.Now().Add(settle))
	d.hurryFetch()
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// longestRetry bounds how long the daemon waits after a pass that failed.
const longestRetry = time.Minute

// pass does one pass.
func (d *Daemon) pass(ctx context.Context) {
	if d.engine.catchUp() {
		d.opts.Level.Set(d.engine.config.Log.Level)
		d.listenMetrics(ctx)
		d.startFetching() // the plan may be another
	}
	wasOff := !d.engine.state.off.Since.IsZero() && !d.engine.state.isOff(d.engine.clock())
	if wasOff {
		d.opts.Log.Info("the time of `cfwall off` is over")
		d.engine.switchOff(offSwitch{})
	}
	d.watchRules(ctx)
	d.listenAgain(ctx)
	report, err := d.engine.Pass(ctx)
	d.passed(report, err)
	d.writeTextfile(ctx)
}

// passed logs what a pass did, feeds the watchdog with it and says when the next
// one is due. A pass that failed feeds it too: a restart would mend nothing.
func (d *Daemon) passed(r Report, err error) {
	now := time.Now()
	d.calm(now)
	wait := sweepInterval
	if err != nil {
		d.failures++
		wait = min(time.Second<<min(d.failures-1, 6), longestRetry)
		d.opts.Log.Info("the policy could not be enforced; trying again", "failures", d.failures, "retry_in", wait)
	} else {
		d.failures = 0
	}
	if r.Changed && len(r.drift) == 0 {
		d.opts.Log.Info("the ruleset changed", "transactions", r.Transactions, "changes", brief(r.Changes))
		for _, m := range r.Meaning {
			d.opts.Log.Info(m)
		}
	}
	if d.engine.ending.due && !d.engine.trial.pending() {
		wait = min(wait, betweenCuts)
	}
	if d.engine.behind() {
		wait = min(wait, time.Second)
	}
	d.opts.Notify.Watchdog()
	if interval := d.opts.Notify.WatchdogInterval(); interval > 0 {
		wait = min(wait, interval/2)
	}
	wait = min(wait, d.engine.state.nextChange(d.engine.clock())+10*time.Millisecond)
	d.passAt = now.Add(wait) // by the monotonic clock: a step of the wall clock must not stop the passes
}

// briefChanges is how many changes a line of the log names.
const briefChanges = 4

func brief(changes []string) string {
	named := changes[:min(len(changes), briefChanges)]
	text := strings.Join(named, "; ")
	if more := len(changes) - len(named); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// reload takes the config over; an invalid one is refused, and the policy stays.
func (d *Daemon) reload(ctx context.Context, o Order) (Report, error) {
	d.opts.Notify.Reloading()
	report, err := d.apply(ctx, o)
	d.announce()
	d.opts.Notify.Ready(d.announced)
	return report, err
}

func (d *Daemon) apply(ctx context.Context, o Order) (Report, error) {
	if o.Confirm != 0 {
		return d.try(ctx, o)
	}
	if err := d.engine.waits(); err != nil {
		systemd.ConfigRefused.Log(d.opts.Log, "the config was not taken over", "error", err)
		return Report{}, err
	}
	source := d.engine.config.Ranges.Source
	if err := d.engine.LoadConfig(ctx, o); err != nil {
		systemd.ConfigRefused.Log(d.opts.Log, "the config was not taken over, the policy stays", "error", err)
		d.engine.configProblems = []Problem{{"config-refused", Degraded,
			"the config file is refused, and the policy stays as it was: " + firstLine(err), "cfwall check says more; then: cfwall reload"}}
		return Report{}, err
	}
	report, err := d.engine.Pass(ctx)
	report.Forced = d.engine.state.forced
	if err == nil {
		systemd.ConfigLoaded.Log(d.opts.Log, "the config was taken over", "file", d.engine.paths.Config)
	}
	d.follow(ctx, source, report, err)
	return report, err
}

// follow has the daemon itself follow a config that has just come into force.
func (d *Daemon) follow(ctx context.Context, before ipranges.Source, r Report, err error) {
	d.opts.Level.Set(d.engine.config.Log.Level)
	d.listenMetrics(ctx)
	d.passed(r, err)
	d.replanFetch()
	if !reflect.DeepEqual(before, d.engine.config.Ranges.Source) {
		d.fetchAt = d.engine.sinceBoot()
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// do runs a task in the loop and waits for it, for as long as the context
// lasts. A task that has not begun by then is not done any more; one that has
// goes on without whoever asked.
func (d *Daemon) do(ctx context.Context, task func(context.Context)) error {
	finished := make(chan error, 1)
	run := func(loop context.Context) {
		err := ctx.Err() // a task may be taken in the moment in which its context ends
		if err == nil {
			task(loop)
		}
		finished <- err
	}
	select {
	case d.tasks <- run:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-finished:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
