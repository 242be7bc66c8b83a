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
	"github.com/cfwall/cfwall/systemd"
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
	survey *sshd.Host // what root saw of SSH before this daemon started; nil: it looks for itself

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
	storeProblems  []Problem // of the list
	stateProblems  []Problem // of what stands beside it
	state          state
	trial          *trial // nil: none

	tally  tally
	ending ending // of connections
	guardian
	lastErr error     // of the last pass
	since   time.Time // when the table was first seen to be right, or put right
}

// NewEngine makes an engine on this host. It touches nothing: Load reads the
// config and the state.
func NewEngine(p Paths, version string, log *slog.Logger) *Engine {
	return &Engine{
		paths: p, version: version, log: log,
		table:        kernel.New(),
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
	e.table = table
	e.LoadState()
	e.settle(context.Background())
	if err := e.HeldElsewhere(context.Background()); err != nil {
		release()
		return nil, nil, err
	}
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
	e.storeProblems, e.stateProblems = nil, nil
	for _, p := range loaded.bookProblems {
		e.storeProblems = append(e.storeProblems, Problem{p.Code, Degraded, p.Text, p.Cure})
		systemd.StateFailed.Log(e.log, p.Text, "code", p.Code, "cure", p.Cure)
	}
	if err = errors.Join(err, loaded.stateErr); err != nil {
		e.stateProblems = append(e.stateProblems, e.stateProblem(err))
		systemd.StateFailed.Log(e.log, "state is unreadable", "error", err)
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
	if errors.Is(err, fs.ErrNotExist) && e.paths.ConfigToCome {
		return config.Default(), []byte{}, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		last, err := e.readStateFile(e.paths.lastConfig())
		if len(last) > 0 {
			return config.Config{}, nil, refuse(ExitUsage, "put it back (the last that worked is "+e.paths.lastConfig()+"), or make an empty one for the default policy",
				"%s is gone", e.paths.Config)
		}
		if isNoAnswer(err) {
			return config.Config{}, nil, refuse(ExitError, e.diskCure(err), "%s is not there, and whether cfwall has worked with one is not known: %w", e.paths.Config, err)
		}
		return config.Default(), []byte{}, nil
	}
	if isNoAnswer(err) {
		return config.Config{}, nil, refuse(ExitError, e.diskCure(err)+", then: cfwall reload", "reading the config: %w", err)
	}
	if errors.Is(err, fs.ErrPermission) {
		hint := "run it as root, or name another file with --config"
		if unreadable := Unreadable(e.paths.Config); unreadable != nil && e.self != (Process{}) {
			hint = refusalOf(unreadable).Hint
		}
		return config.Config{}, nil, &Refusal{fmt.Errorf("reading the config: %w", err), hint, ExitUsage}
	}
	if err != nil {
		return config.Config{}, nil, &Refusal{fmt.Errorf("reading the config: %w", err), "put a file there, or name another with --config", ExitUsage}
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
	// SSH is what root sees of SSH on this host; nil: the daemon looks for itself.
	SSH *sshd.Host `json:"ssh,omitempty"`
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

// Suppose takes the configuration file over as LoadConfig does by force, but only
// in memory: to show what it means, and not to have it in force.
func (e *Engine) Suppose(ctx context.Context) error {
	c, text, err := e.readConfig()
	if err != nil {
		return err
	}
	if _, err := e.refused(ctx, c, Order{Force: true}); err != nil {
		return err
	}
	e.use(c, text)
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
	lockouts, err := e.lockouts(ctx, p, host, o)
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
	order := Order{SSH: e.survey}
	c, text, err := e.firstConfig()
	if err == nil {
		var lockouts []lockout
		if lockouts, err = e.conflict(ctx, c.Policy, order); err == nil {
			e.use(c, text)
			if e.rejected() {
				e.configText = nil // it has worked before, and is kept
			}
			e.leaveOpen(e.state.unforced(lockouts))
			return
		}
	}
	systemd.ConfigRefused.Log(e.log, "the config is refused", "error", err)
	e.unread = e.unread || isNoAnswer(err)
	fallback, text, what := e.lastConfig()
	if c, own, errParse := e.firstConfig(); errParse == nil {
		fallback, text, what = c, own, "it without what was refused" // the file is fine, it only does not go with this host
	}
	e.config, e.configText, e.inForce = fallback, nil, text
	cure := "mend " + e.paths.Config
	if hint := refusalOf(err).Hint; isGone(e.paths.Config) && hint != "" {
		cure = hint
	}
	e.configProblems = []Problem{{"config-refused", Degraded,
		fmt.Sprintf("the config is refused, and in force is %s: %s", what, firstLine(err)), cure + ", then: cfwall reload"}}
	if host, err := e.facts(e.config.Policy); err == nil {
		lockouts, _ := e.lockouts(ctx, e.config.Policy, host, order) // an error is what the config was refused for
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
		systemd.SSHLeftOpen.Log(e.log, "a port is left open for SSH, though the config would close it", "port", l.port, "error", l.refusal(), "cure", l.cure())
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
	said := e.unwritten[e.paths.lastConfig()] != nil
	err := e.keepText(e.paths.lastConfig(), e.configText)
	if err != nil && !said {
		systemd.StateFailed.Log(e.log, "the config could not be kept for a later start", "error", err)
	}
	if isNoAnswer(err) {
		return // once it answers, a pass keeps it
	}
	if err == nil {
		e.configText = nil // else the next pass tries again
	}
	if e.trial != nil { // of a config that was not confirmed, and now another works
		_ = e.removeTrial() // else the next pass does
		e.trial = nil
	}
}
