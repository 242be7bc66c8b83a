package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
)

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

// longestPass bounds a pass, so that with half of WatchdogSec=30s before it the
// watchdog is fed in time.
const longestPass = 10 * time.Second

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
	if e.since.IsZero() || len(report.drift) > 0 {
		e.since = time.Now()
	}
	e.verified = &report.after
	e.leaveFamily(ctx, report.after.Family)
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
	want, _, err := e.Want(time.Now())
	if err != nil {
		return Report{}, err
	}
	report := Report{Changes: []string{}, Meaning: []string{}, after: want}
	var failed error
	for try := range passTries {
		have, plan, err := e.compare(ctx, want)
		if err != nil {
			return report, err
		}
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

// compare reads the table and plans the way from there. A difference has to be seen
// twice: while the kernel clears up after a transaction, a set that is listed in
// several parts may lack elements, though the generation stays the same.
func (e *Engine) compare(ctx context.Context, want firewall.Ruleset) (have firewall.State, plan firewall.Plan, err error) {
	for range 2 {
		if have, err = e.table.Read(ctx, want.Family); err != nil {
			return have, plan, err
		}
		if plan = e.plan(have, want); plan.Empty() {
			break
		}
	}
	return have, plan, nil
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
