package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/ipranges"
	"github.com/cfwall/cfwall/sshd"
)

// Table is the kernel's side of a pass.
type Table interface {
	Read(context.Context, firewall.Family) (firewall.State, error)
	Apply(context.Context, firewall.Plan) error
	Port() uint32 // by which it writes, 0 where each change comes by another
	Remembered(ctx context.Context, family firewall.Family, sets ...string) ([]kernel.Remembered, error)
}

// Fetcher gets Cloudflare's list.
type Fetcher interface {
	Fetch(context.Context, ipranges.Source) (ipranges.Answer, error)
}

// Engine carries the policy to the kernel, one pass at a time, and knows how
// that went. It is not safe for concurrent use: the daemon's loop owns it, or
// a command that works without a daemon.
type Engine struct {
	paths   Paths
	version string
	log     *slog.Logger
	table   Table
	fetcher Fetcher
	network *patient // waits for the fetcher
	surroundings
	disks

	self           Process // the daemon that this engine works for, if any
	config         config.Config
	configText     []byte // of the file that config came from, until it is kept
	inForce        []byte // the text that config was made of; empty: the default
	configProblems []Problem
	store          bookStore
	book           ipranges.Book
	storeProblems  []Problem
	state          state
	trial          *trial // nil: none

	tally  tally
	ending ending // of connections
	guardian
	lastErr error     // of the last pass
	since   time.Time // when the table was first seen to be right
}

// NewEngine makes an engine on this host. It touches nothing: Load reads the
// config and the state.
func NewEngine(p Paths, version string, log *slog.Logger) *Engine {
	return &Engine{
		paths: p, version: version, log: log,
		table:        bounded(kernel.New()),
		fetcher:      ipranges.NewClient("cfwall/" + version + " (+https://github.com/cfwall/cfwall)"),
		network:      newPatient("the network", longestFetch),
		surroundings: theseSurroundings(),
		disks:        newDisks(),
		store:        ipranges.OpenStore(p.ranges()),
		config:       config.Default(),
		tally:        newTally(),
	}
}

// Reader returns what answers questions: the daemon, or where none runs an
// engine that looks for itself. Without a daemon the config in force is the
// file's, or what the daemon would start with.
func Reader(p Paths, version string, log *slog.Logger) (Service, error) {
	client, err := Dial(p)
	if !errors.Is(err, ErrNoDaemon) {
		return client, err
	}
	e := NewEngine(p, version, log)
	e.LoadState()
	e.LoadConfigOrFallback()
	return e, nil
}

// Writer returns what carries out changes: the daemon, or where none runs an
// engine that holds the lock until release is called.
func Writer(p Paths, version, command string, log *slog.Logger) (_ Service, release func(), err error) {
	client, err := Dial(p)
	if !errors.Is(err, ErrNoDaemon) {
		return client, func() {}, err
	}
	release, err = p.acquire(command)
	if err != nil {
		return nil, nil, err
	}
	e := NewEngine(p, version, log)
	table := kernel.New()
	if err := table.Outlive(context.Background()); err != nil {
		log.Debug("the table will be plain", "error", err) // the pass says what is wrong
	}
	e.table = bounded(table)
	e.LoadState()
	e.settle(context.Background())
	return e, release, nil
}

// LoadState reads the list and the temporary entries; whatever is missing or
// broken has a safe substitute and becomes a problem that status shows.
func (e *Engine) LoadState() {
	loaded, err := e.readState()
	e.unread = isNoAnswer(err)
	if e.unread && e.book.Current.List.Len() > 0 {
		return // what is known is better than nothing
	}
	if err != nil {
		loaded.book.Current = ipranges.Embedded() // and closed is safe
	}
	e.takeOver(loaded)
	e.storeProblems = nil
	for _, p := range loaded.bookProblems {
		e.storeProblems = append(e.storeProblems, Problem{p.Code, Degraded, p.Text, p.Cure})
		e.log.Warn(p.Text, "code", p.Code, "cure", p.Cure)
	}
	if err = errors.Join(err, loaded.stateErr); err != nil {
		e.storeProblems = append(e.storeProblems, stateProblem(err))
		e.log.Warn("state is unreadable", "error", err)
	}
	if e.trial.pending() {
		e.state.forced = e.trial.Forced
	}
}

// readConfig reads and checks the configuration file. One that does not exist
// is an empty one, unless cfwall has worked with one before: it may be gone for
// the moment in which somebody replaces it.
func (e *Engine) readConfig() (config.Config, []byte, error) {
	b, err := e.readConfigFile(e.paths.Config)
	if errors.Is(err, fs.ErrNotExist) {
		last, err := e.readStateFile(e.paths.lastConfig())
		if len(last) > 0 {
			return config.Config{}, nil, refuse(ExitUsage, "put it back (the last that worked is "+e.paths.lastConfig()+"), or make an empty one for the default policy",
				"%s is gone", e.paths.Config)
		}
		if isNoAnswer(err) {
			return config.Config{}, nil, refuse(ExitError, diskCure(err), "%s is not there, and whether cfwall has worked with one is not known: %w", e.paths.Config, err)
		}
		return config.Default(), []byte{}, nil
	}
	if isNoAnswer(err) {
		return config.Config{}, nil, refuse(ExitError, diskCure(err)+", then: cfwall reload", "reading the config: %w", err)
	}
	if err != nil {
		return config.Config{}, nil, &Refusal{fmt.Errorf("reading the config: %w", err), "run it as root, or name another file with --config", ExitUsage}
	}
	c, err := config.Parse(bytes.NewReader(b), e.paths.Config)
	return c, b, err
}

// An Order says who gives a command, and how firmly.
type Order struct {
	// Force carries it out even where that closes a way in by SSH, or a port
	// for a tunnel that is not up.
	Force bool `json:"force"`
	// Session is the SSH session that the command came by, if any.
	Session sshd.Session `json:"session"`
	// Confirm is how long to wait for `cfwall confirm` before going back; 0: the
	// order is final.
	Confirm time.Duration `json:"confirm,omitzero"`
}

// LoadConfig takes the configuration file over. An invalid one, or one that
// would lock SSH out, is refused and the running policy stays; so is one that
// closes the web ports for a tunnel which is not up.
func (e *Engine) LoadConfig(ctx context.Context, o Order) error {
	c, text, err := e.readConfig()
	if err != nil {
		return err
	}
	forced, err := e.refused(ctx, c, o)
	if err != nil {
		return err
	}
	e.use(c, text)
	e.keepForced(forcedOf(forced))
	return nil
}

func (e *Engine) use(c config.Config, text []byte) {
	e.config, e.configText, e.inForce, e.configProblems = c, text, text, nil
}

// refused says why a config is not put in force, or what of SSH it closes by
// force.
func (e *Engine) refused(ctx context.Context, c config.Config, o Order) ([]lockout, error) {
	lockouts, err := e.conflict(ctx, c.Policy, o)
	switch {
	case err != nil:
		return nil, err
	case o.Force:
		return lockouts, nil
	case len(lockouts) > 0:
		return nil, lockouts[0].refusal()
	}
	if err := e.cutsCarrier(ctx, c, o.Session); err != nil {
		return nil, err
	}
	if err := e.cutsTunnel(ctx, c); err != nil {
		return nil, err
	}
	return nil, e.tunnelReady(ctx, c)
}

// conflict refuses a policy that cannot be in force on this host, and lists what
// it closes of SSH. Force is about that alone: without a rule that tells replies
// apart there is no ruleset to make.
func (e *Engine) conflict(ctx context.Context, p firewall.Policy, o Order) ([]lockout, error) {
	host, err := e.facts(p)
	if err != nil {
		return nil, err
	}
	if err := unknownUser(p, host); err != nil {
		return nil, err
	}
	if risky := firewall.AtRisk(p.UDP, host); len(risky) > 0 {
		return nil, fmt.Errorf("[web] udp %s: %w", firewall.JoinPorts(risky), firewall.ErrEphemeralUDP)
	}
	if p.Audit {
		return nil, nil // nothing is closed
	}
	lockouts, err := e.lockouts(ctx, p, host, o.Session)
	if o.Force {
		err = nil
	}
	return lockouts, err
}

// LoadConfigOrFallback is LoadConfig for the start of the daemon, which never
// goes without a policy: instead of an invalid file it takes the last one that
// worked, else the default; and it leaves a port open where SSH listens, unless
// --force has closed it. A tunnel cannot be up yet: closed is safe.
func (e *Engine) LoadConfigOrFallback() {
	ctx := context.Background() // what is asked of the kernel has a time limit of its own
	c, text, err := e.firstConfig()
	if err == nil {
		var lockouts []lockout
		if lockouts, err = e.conflict(ctx, c.Policy, Order{}); err == nil {
			e.use(c, text)
			if e.rejected() {
				e.configText = nil // it has worked before, and is kept
			}
			e.leaveOpen(e.state.unforced(lockouts))
			return
		}
	}
	e.log.Error("the config is refused", "error", err)
	e.unread = e.unread || isNoAnswer(err)
	fallback, text, what := e.lastConfig()
	if c, own, errParse := e.firstConfig(); errParse == nil {
		fallback, text, what = c, own, "it without what was refused" // the file is fine, it only does not go with this host
	}
	e.config, e.configText, e.inForce = fallback, nil, text
	e.configProblems = []Problem{{"config-refused", Degraded,
		fmt.Sprintf("the config is refused, and in force is %s: %s", what, firstLine(err)), "mend " + e.paths.Config + ", then: cfwall reload"}}
	if host, err := e.facts(e.config.Policy); err == nil {
		lockouts, _ := e.lockouts(ctx, e.config.Policy, host, sshd.Session{}) // an error is what the config was refused for
		e.leaveOpen(e.state.unforced(lockouts))
	}
}

// leaveOpen has the policy leave open what it would close of SSH.
func (e *Engine) leaveOpen(lockouts []lockout) {
	if len(lockouts) == 0 {
		return
	}
	e.config.Policy, e.configText = leavingOpen(e.config.Policy, lockouts), nil
	for _, l := range lockouts {
		e.log.Error("a port is left open for SSH, though the config would close it", "port", l.port, "error", l.refusal())
		e.configProblems = append(e.configProblems, Problem{"ssh-left-open", Degraded,
			fmt.Sprintf("the config is in force, but port %d/tcp is left open for SSH: %s", l.port, l.refusal()), l.cure() + ", then: cfwall reload"})
	}
}

func (e *Engine) lastConfig() (c config.Config, text []byte, what string) {
	text, err := e.readStateFile(e.paths.lastConfig())
	if err == nil {
		if c, err := config.Parse(bytes.NewReader(text), e.paths.lastConfig()); err == nil {
			return c, text, "the last one that worked"
		}
	}
	return config.Default(), nil, "the default policy"
}

// remember keeps the config that has just worked, for LoadConfigOrFallback.
func (e *Engine) remember() {
	if e.configText == nil || e.trial.pending() || e.stateDisk.hangs() != nil {
		return
	}
	err := e.keepText(e.paths.lastConfig(), e.configText)
	if err != nil {
		e.log.Warn("the config could not be kept for a later start", "error", err)
	}
	if isNoAnswer(err) {
		return // once it answers, a pass keeps it
	}
	e.configText = nil
	_ = e.forgetTrial() // of a config that was not confirmed, and now another works
}

// Want builds the ruleset that should be in force now.
func (e *Engine) Want(now time.Time) (firewall.Ruleset, firewall.Host, error) {
	host, err := e.facts(e.config.Policy)
	if err != nil {
		return firewall.Ruleset{}, host, err
	}
	want, err := firewall.Build(feasible(e.config.Policy, host), e.lists(now), host)
	return want, host, err
}

// feasible leaves out UDP ports that the host has come to use for connections
// of its own since the config was taken over: the rest must go on.
func feasible(p firewall.Policy, h firewall.Host) firewall.Policy {
	p.UDP = firewall.SubtractPorts(p.UDP, firewall.AtRisk(p.UDP, h))
	return p
}

// at is what the clocks say, for a time that was just read from one of them.
func (e *Engine) at(now time.Time) moment {
	m := e.clock()
	m.wall = now
	return m
}

func (e *Engine) lists(now time.Time) firewall.Lists {
	return firewall.Lists{Cloudflare: e.book.Current.List, Temporary: e.state.current(e.at(now))}
}

// Report says what a pass did.
type Report struct {
	Changed      bool     `json:"changed"`
	Meaning      []string `json:"meaning"`      // of the changes, for this host and those who reach it
	Changes      []string `json:"changes"`      // in words
	Transactions int      `json:"transactions"` // that the kernel was sent
	Generation   uint32   `json:"generation"`   // of the kernel's ruleset, as last read
	Off          bool     `json:"off"`          // `cfwall off` holds: every port is open
	Audit        bool     `json:"audit"`        // nothing is dropped
	Cut          int      `json:"cut"`          // live connections that the change has ended
	Forced       []Forced `json:"forced,omitempty"`
	Confirm      *Trial   `json:"confirm,omitempty"` // it is in force until then

	before *firewall.Ruleset // what the pass found, nil: no table
	after  firewall.Ruleset
	drift  []string // what others had changed, and is put right
}

// passTries bounds how often a pass reads, plans and applies anew. An error of
// a transaction is settled by reading: it may have been carried out.
const passTries = 4

// Pass makes the table what it should be and verifies it by reading it back.
// While `cfwall off` holds, the table must be absent.
func (e *Engine) Pass(ctx context.Context) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, longestPass)
	defer cancel()
	report, err := e.pass(ctx)
	report.Off, report.Audit = e.state.isOff(e.clock()), e.config.Policy.Audit
	e.tally.pass(report, err)
	e.lastErr = err
	if err != nil || report.Off {
		e.since, e.verified = time.Time{}, nil
		return report, err
	}
	if e.since.IsZero() {
		e.since = time.Now()
	}
	e.verified = &report.after
	e.remember()
	if report.Changed {
		e.ending.next(report.before, report.after)
	}
	if len(report.drift) > 0 {
		e.report(e.repaired(report.drift, time.Now()))
		return report, nil // the next pass closes connections: others may be changing the table still
	}
	e.suspects = nil
	report.Cut = e.cut(ctx)
	return report, nil
}

func (e *Engine) pass(ctx context.Context) (Report, error) {
	want, host, err := e.Want(time.Now())
	if err != nil {
		return Report{}, err
	}
	report := Report{Changes: []string{}, Meaning: []string{}, after: want}
	var failed error
	for try := range passTries {
		have, err := e.table.Read(ctx, familyOf(host))
		if err != nil {
			return report, err
		}
		plan := e.plan(have, want)
		report.Generation = have.Generation
		switch {
		case e.isForeign(have, plan):
			return report, foreignTable(have.Owner)
		case plan.Empty():
			return report, nil
		case try == 0:
			report.drift = e.drift(have, time.Now())
		case failed == nil:
			report.drift = append(report.drift, plan.Summary()...) // what was written is not what is there
		}
		if failed != nil && !worthRetrying(failed, try) {
			return report, failed
		}
		if try == passTries-1 {
			return report, errors.Join(failed, errNotConverging)
		}
		if try == passTries-2 {
			plan.Generation = 0 // other programs never rest: go without the check that they do
		}
		failed = e.table.Apply(ctx, plan)
		report.add(plan, have)
	}
	return report, failed
}

var errNotConverging = errors.New("the table is not what was written: another program changes it")

// worthRetrying sorts errors: some will be the same next time. A refusal may be
// about an entry that expired since the table was read, so it gets one retry.
func worthRetrying(err error, try int) bool {
	return errors.Is(err, kernel.ErrBusy) || errors.Is(err, kernel.ErrUncertain) ||
		errors.Is(err, kernel.ErrRefused) && try == 1
}

func (r *Report) add(p firewall.Plan, have firewall.State) {
	if !r.Changed {
		r.Changes, r.Meaning = p.Summary(), append([]string{}, firewall.Meaning(have.Table, r.after)...)
		r.before = have.Table
	}
	r.Changed = true
	r.Transactions += len(p.Steps)
}

// plan leads to the wanted table, or while `cfwall off` holds to none.
func (e *Engine) plan(have firewall.State, want firewall.Ruleset) firewall.Plan {
	if !e.state.isOff(e.clock()) {
		return firewall.MakePlan(have, want)
	}
	return firewall.RemovePlan(have, want.Family)
}

func familyOf(h firewall.Host) firewall.Family {
	if h.IPv6 {
		return firewall.FamilyINET
	}
	return firewall.FamilyIP
}
