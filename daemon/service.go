package daemon

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/ipranges"
	"github.com/cfwall/cfwall/sshd"
	"github.com/cfwall/cfwall/systemd"
)

// Service is what commands ask for: of the daemon over its control socket
// (Client), or of an Engine where no daemon runs. Errors that a user can act
// on are Refusals.
type Service interface {
	// Status reads the kernel and gives the verdict.
	Status(context.Context) (Status, error)
	// Plan says what Apply would change, and whether it would refuse to.
	Plan(context.Context, Order) (PlanReport, error)
	// Apply takes the config over and does one pass.
	Apply(context.Context, Order) (Report, error)
	// Trial says whether a config waits to be confirmed, or was gone back from.
	Trial(context.Context) (Trial, error)
	// Confirm keeps the config that is on trial, if the session is newer.
	Confirm(context.Context, sshd.Session) (Kept, error)
	// GoBack ends a trial at once.
	GoBack(context.Context) (Trial, error)
	// Why explains what becomes of a packet.
	Why(context.Context, Question) (Explanation, error)

	// Ranges tells everything about the list.
	Ranges(context.Context) (ipranges.Book, error)
	// FetchRanges fetches the list now and applies what is believed of it.
	FetchRanges(context.Context) (ipranges.Outcome, error)
	// AcceptRanges puts the held list in force.
	AcceptRanges(context.Context) (ipranges.Outcome, error)
	// RollbackRanges puts the previous list in force.
	RollbackRanges(context.Context) (ipranges.Outcome, error)

	// Allowed lists the temporary entries.
	Allowed(context.Context) ([]firewall.Temporary, error)
	// Allow lets a network in for a time, from now.
	Allow(ctx context.Context, network netip.Prefix, lasting time.Duration) (firewall.Temporary, error)
	// Disallow ends a temporary entry.
	Disallow(context.Context, netip.Prefix) error

	// Off opens the ports by deleting the table; after a time other than 0
	// the daemon closes them again.
	Off(ctx context.Context, lasting time.Duration) (Off, error)
	// On closes them again.
	On(context.Context) (Report, error)
}

// PlanReport is a plan for people and for nft.
type PlanReport struct {
	Empty   bool     `json:"empty"`
	Meaning []string `json:"meaning"` // of the changes, for this host and those who reach it
	Changes []string `json:"changes"` // in words
	Script  string   `json:"nft"`     // the same as commands of nft
	Off     bool     `json:"off"`     // `cfwall off` holds: every port is open
	Audit   bool     `json:"audit"`   // nothing is dropped then
	Cuts    []Cut    `json:"cuts"`    // live connections that it will end
	// Refused says why apply would ask for --force, or fail; "" where it would not.
	Refused string `json:"refused,omitempty"`
	Hint    string `json:"hint,omitempty"`
	Exit    int    `json:"-"` // of a command that is refused for it; 0: not known
}

// Plan implements Service.
func (e *Engine) Plan(ctx context.Context, o Order) (PlanReport, error) {
	c, _, err := e.readConfig()
	if err != nil {
		return PlanReport{}, err
	}
	return e.planOf(ctx, c, o)
}

func (e *Engine) planOf(ctx context.Context, c config.Config, o Order) (PlanReport, error) {
	planned := *e
	planned.config = c
	want, host, err := planned.Want(time.Now())
	if err != nil {
		return PlanReport{}, err
	}
	have, err := e.table.Read(ctx, familyOf(host))
	if err != nil {
		return PlanReport{}, err
	}
	p := e.plan(have, want)
	report := PlanReport{
		Empty: p.Empty(), Changes: append([]string{}, p.Summary()...), Script: p.String(), Off: e.state.isOff(e.clock()), Cuts: []Cut{},
		Meaning: append([]string{}, firewall.Meaning(have.Table, want)...), Audit: c.Policy.Audit,
	}
	if !report.Empty && !report.Off {
		ctx, cancel := context.WithTimeout(ctx, longestCut)
		defer cancel()
		if _, cuts, err := e.doomed(ctx, have.Table, want); err == nil {
			report.Cuts = cuts // apply goes on without knowing them, too
		}
	}
	_, err = planned.refused(ctx, c, o)
	if e.isForeign(have, p) {
		err = foreignTable(have.Owner)
	}
	if err != nil {
		report.Refused, report.Hint, report.Exit = err.Error(), refusalOf(err).Hint, refusalOf(err).Exit
	}
	return report, nil
}

// Apply implements Service.
func (e *Engine) Apply(ctx context.Context, o Order) (Report, error) {
	if o.Confirm != 0 {
		return Report{}, refuse(ExitError, "start the daemon first ("+HowToStart()+"), or give the command on a terminal, and it waits there",
			"no daemon runs that would go back in time")
	}
	if err := e.waits(); err != nil {
		return Report{}, err
	}
	if err := e.LoadConfig(ctx, o); err != nil {
		return Report{}, err
	}
	report, err := e.Pass(ctx)
	report.Forced = e.state.forced
	for closed := report.Cut; closed > 0 && e.ending.due; report.Cut += closed {
		closed = e.cut(ctx) // no later pass goes on with it
	}
	return report, err
}

// Ranges implements Service.
func (e *Engine) Ranges(context.Context) (ipranges.Book, error) { return e.book, nil }

// FetchRanges implements Service.
func (e *Engine) FetchRanges(ctx context.Context) (ipranges.Outcome, error) {
	answer, err := e.fetch(ctx, e.config.Ranges.Source)
	return e.Offer(ctx, answer, err)
}

// longestFetch is more than a fetch takes: the client gives up before.
const longestFetch = 30 * time.Second

// fetch asks the source. A fetch that does not come back is a failed one, and
// no other is begun beside it.
func (e *Engine) fetch(ctx context.Context, s ipranges.Source) (ipranges.Answer, error) {
	return patiently(e.network, "the fetch of the list", func(given context.Context) (ipranges.Answer, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(given, cancel)()
		return e.fetcher.Fetch(ctx, s)
	})
}

// Offer takes over what is believed of a fetched list, or notes why there is
// none, and applies it.
func (e *Engine) Offer(ctx context.Context, a ipranges.Answer, failed error) (ipranges.Outcome, error) {
	now := e.wallClock()
	var book ipranges.Book
	var outcome ipranges.Outcome
	if failed != nil {
		book, outcome = e.book.Fail(failed, now)
	} else {
		book, outcome = e.book.Offer(a, e.config.Ranges.MaxChange, now)
	}
	book = book.Plan(e.config.Ranges.Schedule, now, rand.Float64)
	return outcome, e.putInForce(ctx, book, outcome)
}

// AcceptRanges implements Service.
func (e *Engine) AcceptRanges(ctx context.Context) (ipranges.Outcome, error) {
	book, outcome, err := e.book.Accept(time.Now())
	if err != nil {
		return outcome, &Refusal{err, "see what is in force: cfwall ranges", ExitError}
	}
	return outcome, e.putInForce(ctx, book, outcome)
}

// RollbackRanges implements Service.
func (e *Engine) RollbackRanges(ctx context.Context) (ipranges.Outcome, error) {
	book, outcome, err := e.book.Rollback(time.Now())
	if err != nil {
		return outcome, &Refusal{err, "see what is in force: cfwall ranges", ExitError}
	}
	return outcome, e.putInForce(ctx, book, outcome)
}

// putInForce stores a list before the kernel gets it, so that a crash between
// the two leaves a table which the next start widens or narrows to the same
// list. A disk that cannot be written does not keep the list out of force.
func (e *Engine) putInForce(ctx context.Context, book ipranges.Book, o ipranges.Outcome) error {
	changed := !book.Current.List.Equal(e.book.Current.List)
	e.book = book
	e.logOutcome(o)
	e.save()
	if !changed {
		return nil
	}
	_, err := e.Pass(ctx)
	return err
}

func (e *Engine) save() {
	e.storeProblems = nil
	if err := e.keepBook(); err != nil {
		systemd.StateFailed.Log(e.log, "the list could not be stored", "error", err)
	}
}

// Allowed implements Service.
func (e *Engine) Allowed(context.Context) ([]firewall.Temporary, error) {
	return e.state.current(e.clock()), nil
}

// longestAllow bounds a temporary entry; what is to last belongs into the config.
const longestAllow = 30 * 24 * time.Hour

// Allow implements Service.
func (e *Engine) Allow(ctx context.Context, network netip.Prefix, lasting time.Duration) (firewall.Temporary, error) {
	network = network.Masked()
	if network.IsValid() && network.Bits() == 0 {
		return firewall.Temporary{}, refuse(ExitUsage, "to open the ports to everybody for a while: cfwall off --for 15m", "%s is everybody", network)
	}
	if !isNetwork(network) {
		return firewall.Temporary{}, refuse(ExitUsage, "name an address or a network: 192.0.2.7, 198.51.100.0/24, 2001:db8::/48", "%s is no network", network)
	}
	if lasting < time.Second || lasting > longestAllow {
		return firewall.Temporary{}, refuse(ExitUsage, "name a permanent one in [allow] from in "+e.paths.Config, "an entry lasts from 1s to 720h (30 days), not %s", lasting)
	}
	now := e.clock()
	whole := now.wall.Add(lasting + time.Second - 1).Truncate(time.Second)
	allowed := entry{network, now.in(whole.Sub(now.wall))}
	entries := e.state.withAllowed(allowed, now)
	if err := e.keep(e.paths.allow(), entries); err != nil {
		return firewall.Temporary{}, e.notOpened(err)
	}
	before := e.state.allowed
	e.state.allowed = entries
	_, err := e.Pass(ctx)
	if errors.Is(err, kernel.ErrForeign) { // as with off
		e.state.allowed = before
		return firewall.Temporary{}, errors.Join(err, e.notKept(e.keep(e.paths.allow(), before)))
	}
	added := firewall.Temporary{Network: network, Expires: allowed.Expires.at(now)}
	systemd.Allowed.Log(e.log, "a network may reach the guarded ports for a while", "network", networkText(network), "until", clockText(added.Expires))
	return added, err
}

// Disallow implements Service.
func (e *Engine) Disallow(ctx context.Context, network netip.Prefix) error {
	network = network.Masked()
	now := e.state.live(e.clock())
	left := without(now, network)
	if len(left) == len(now) {
		return refuse(ExitError, "list them: cfwall allow --list", "there is no temporary entry for %s", networkText(network))
	}
	e.state.allowed = left
	_, err := e.Pass(ctx)
	systemd.Disallowed.Log(e.log, "a network may not reach the guarded ports any more", "network", networkText(network))
	return errors.Join(err, e.notKept(e.keep(e.paths.allow(), left)))
}

// notOpened says that nothing was opened, because a restart would not know of it.
func (e *Engine) notOpened(err error) *Refusal {
	return refuse(ExitError, e.diskCure(err)+", and repeat the command", "nothing was opened, because it could not be written down: %w", err)
}

// notKept says that something was closed that a restart would open again. To
// close does not wait for the disk; to open does.
func (e *Engine) notKept(err error) error {
	if err == nil {
		return nil
	}
	return refuse(ExitError, e.diskCure(err)+", and repeat the command", "it is closed, but that could not be written down: %w", err)
}

// Off implements Service.
func (e *Engine) Off(ctx context.Context, lasting time.Duration) (Off, error) {
	if lasting < 0 {
		return Off{}, refuse(ExitUsage, "name a time such as 15m", "%s is no time to come", lasting)
	}
	if lasting > 0 && !e.self.Running {
		return Off{}, refuse(ExitError, "start the daemon first ("+HowToStart()+"), or open the ports until further notice: cfwall off",
			"no daemon runs that would close the ports again in time")
	}
	now := e.clock()
	off := offSwitch{Since: now.wall.Round(0)}
	if lasting > 0 {
		off.Until = now.in(lasting)
	}
	if err := e.keep(e.paths.off(), off); err != nil {
		refused := e.notOpened(err)
		refused.Hint += "; or, now: " + breakGlass
		return Off{}, refused
	}
	before := e.state.off
	e.state.off = off
	_, err := e.Pass(ctx)
	if errors.Is(err, kernel.ErrForeign) {
		// It was refused: nothing may open the ports on the day that the table is free.
		e.state.off = before
		return Off{}, errors.Join(err, e.notKept(e.keep(e.paths.off(), before)))
	}
	return off.at(now), err
}

// ForgetOff is for when the service is gone that was switched off: a new one
// begins with the rules in force.
func ForgetOff(p Paths) error {
	return durable.AsOwner(p.State, func() error { return durable.Remove(durable.OS{}, p.off()) })
}

func untilText(o Off) string {
	if o.Until.IsZero() {
		return "cfwall on"
	}
	return o.Until.Format(time.RFC3339)
}

// On implements Service.
func (e *Engine) On(ctx context.Context) (Report, error) {
	e.state.off = offSwitch{}
	e.stayOn()
	report, err := e.Pass(ctx)
	return report, errors.Join(err, e.notKept(e.keep(e.paths.off(), offSwitch{})))
}
