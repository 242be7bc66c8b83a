package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/systemd"
)

// A Repair is a change by another program that was put right.
type Repair struct {
	At      time.Time `json:"at"`
	By      string    `json:"by"`      // "nft (pid 4121)", or "unknown"
	Changes []string  `json:"changes"` // what was put right, in words
}

// Repairs are those since the daemon was started.
type Repairs struct {
	Count int      `json:"count"`
	Last  []Repair `json:"last"` // the latest first
	// Contested is when other programs last changed the table faster than it is
	// put right at once.
	Contested time.Time `json:"contested,omitzero"`
}

// shownRepairs is how many repairs are remembered one by one.
const shownRepairs = 8

// A guardian knows what was last verified, so that it can tell changes by other
// programs from those that the policy asks for.
type guardian struct {
	verified *firewall.Ruleset // nil: nothing was, or nothing is to be in force
	family   firewall.Family   // of the table that this process has put in force; "": none yet
	suspects []kernel.Change   // of our table, by others, since the last pass
	repairs  Repairs
}

// suspect notes what others did to our table; port is by which we write.
func (g *guardian) suspect(changes []kernel.Change, port uint32) (found bool) {
	for _, c := range changes {
		if c.Port != port {
			g.suspects, found = append(g.suspects, c), true
		}
	}
	g.suspects = g.suspects[max(0, len(g.suspects)-shownRepairs):]
	return found
}

// drift says how a table differs from the one that was last verified.
func (g *guardian) drift(have firewall.State, now time.Time) []string {
	if g.verified == nil {
		return nil
	}
	have.Best = "" // that others have loosened our hold is no difference of its own
	want := g.verified.Unexpired(now)
	if have.Table != nil {
		table := have.Table.Unexpired(now)
		have.Table = &table
	}
	return firewall.MakePlan(have, want).Summary()
}

// repaired notes that a change by others was put right.
func (g *guardian) repaired(changes []string, now time.Time) Repair {
	r := Repair{At: now, By: culprits(g.suspects), Changes: changes}
	g.repairs.Count++
	g.repairs.Last = slices.Insert(g.repairs.Last, 0, r)
	g.repairs.Last = g.repairs.Last[:min(len(g.repairs.Last), shownRepairs)]
	g.suspects = nil
	return r
}

// culprits names the programs that changed our table.
func culprits(all []kernel.Change) string {
	var names []string
	for _, c := range all {
		name := fmt.Sprintf("%s (pid %d)", c.Program, c.PID)
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "unknown"
	}
	return strings.Join(names, ", ")
}

// contestedFor is how long after a storm of changes status still speaks of it.
const contestedFor = time.Minute

func (g *guardian) problems(now time.Time) []Problem {
	if g.repairs.Contested.IsZero() || now.Sub(g.repairs.Contested) > contestedFor || g.repairs.Count == 0 {
		return nil
	}
	return []Problem{{"table-contested", Degraded,
		fmt.Sprintf("%s changes the table again and again, and cfwall puts it right %d times a second: between, ports may be open", g.repairs.Last[0].By, repairRate),
		"stop that program from touching the table inet cfwall; since Linux 6.9 no other program can"}}
}

// Changes by others are put right at once, as long as they are not too many: then
// so many a second, so that a program that does it in a loop cannot keep this
// host busy. It is never given up.
const (
	repairRate  = 10 // a second
	repairBurst = 50
)

func newBrake() *rate.Limiter { return rate.NewLimiter(repairRate, repairBurst) }

// report logs a repair.
func (e *Engine) report(r Repair) {
	systemd.Repaired.Log(e.log, "another program changed the table; it was put right", "by", r.By, "changes", brief(r.Changes), "repairs", e.repairs.Count)
}

// isForeign reports whether another process holds the table, and this one has to
// do with it: a command may find that there is nothing to do.
func (e *Engine) isForeign(have firewall.State, p firewall.Plan) bool {
	return have.Table != nil && have.Table.Hold == firewall.Foreign && (e.self.Running || !p.Empty())
}

// leaveFamily removes the table that this process made before the host got IPv6,
// now that another guards it: what nobody keeps true would go on dropping.
func (e *Engine) leaveFamily(ctx context.Context, family firewall.Family) {
	if e.family == "" || e.family == family {
		e.family = family
		return
	}
	have, err := e.table.Read(ctx, e.family)
	if err == nil {
		err = e.table.Apply(ctx, firewall.RemovePlan(have, e.family))
	}
	if err != nil {
		e.log.Warn("the table of another family could not be removed; trying again", "family", e.family, "error", err)
		return
	}
	e.family = family
}

// HeldElsewhere refuses to begin while another process holds the table, a daemon
// whose runtime directory was removed, say. What a command writes down and cannot
// do, such as to open every port, the next start would do.
func (e *Engine) HeldElsewhere(ctx context.Context) error {
	host, err := e.host()
	if err != nil {
		return nil // the pass says what is wrong
	}
	have, err := e.table.Read(ctx, familyOf(host))
	if err == nil && have.Table != nil && have.Table.Hold == firewall.Foreign {
		return foreignTable(have.Owner)
	}
	return nil
}

// foreignTable names the process that holds the table.
func foreignTable(port uint32) error {
	return refuse(ExitError, "let that process do it, by its --runtime-dir, or end it first; the rules stay",
		"%w: %s", kernel.ErrForeign, kernel.OwnerAt(port))
}

// clone is for readers outside of the loop.
func (r Repairs) clone() Repairs {
	r.Last = append([]Repair{}, r.Last...)
	return r
}

// rulesWatch is what a kernel.RulesWatch is to the loop.
type rulesWatch interface {
	News() <-chan struct{}
	Take() (changes []kernel.Change, lost bool)
}

// watchRules begins to watch what others do to the ruleset, if nothing does yet.
func (d *Daemon) watchRules(ctx context.Context) {
	if d.rules != nil {
		return
	}
	rules, err := d.engine.watchRules(ctx)
	if d.noWatch.isNew(err) {
		d.opts.Log.Error("the ruleset cannot be watched; changes by others are put right within "+sweepInterval.String(), "error", err)
	}
	if err == nil {
		d.rules = rules
	}
}

func (d *Daemon) rulesNews() <-chan struct{} {
	if d.rules == nil {
		return nil
	}
	return d.rules.News()
}

// rewatch is how soon a watch that has ended is begun anew.
const rewatch = time.Second

// rulesChanged brings the next pass forward where others have, or may have,
// changed our table.
func (d *Daemon) rulesChanged(watching bool) {
	changes, lost := d.rules.Take()
	now := time.Now()
	if !watching {
		d.rules = nil
		d.opts.Log.Info("the ruleset is not watched any more; trying again")
		d.passAt = earlier(d.passAt, now.Add(rewatch))
	}
	if (d.engine.suspect(changes, d.engine.table.Port()) || lost) && d.alarm == nil {
		d.alarm = d.brake.ReserveN(now, 1)
		wait := d.alarm.DelayFrom(now)
		d.contested(wait > 0, now)
		d.passAt = earlier(d.passAt, now.Add(wait))
	}
}

// calm ends an alarm, since a pass was done. One that came for another reason,
// before the brake let it, gives back what it did not use: else every interface
// that comes or goes would have later repairs wait longer.
func (d *Daemon) calm(now time.Time) {
	if d.alarm != nil && d.alarm.DelayFrom(now) > 0 {
		d.alarm.CancelAt(now)
	}
	d.alarm = nil
}

// contested notes a storm of changes, and says so once.
func (d *Daemon) contested(storm bool, now time.Time) {
	since := &d.engine.repairs.Contested
	if storm && now.Sub(*since) > contestedFor {
		systemd.RepairStorm.Log(d.opts.Log, "other programs change the table again and again; it is put right, but not at once each time", "by", culprits(d.engine.suspects))
	}
	if storm {
		*since = now
	}
}
