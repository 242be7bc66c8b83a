package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
)

// StatusSchema names the layout of Status; a change that breaks readers gets a new number.
const StatusSchema = "cfwall.status/1"

// The verdicts of a Status.
const (
	VerdictProtected   = "protected"
	VerdictDegraded    = "degraded"
	VerdictUnprotected = "unprotected"
)

// Status answers whether the host is protected, from a fresh read of the kernel.
type Status struct {
	Schema   string             `json:"schema"`
	Verdict  string             `json:"verdict"`
	Mode     firewall.Mode      `json:"mode"`
	Audit    bool               `json:"audit"`          // nothing is dropped
	Since    time.Time          `json:"since,omitzero"` // the table has been right since
	Guarded  Guarded            `json:"guarded"`
	Table    TableStatus        `json:"table"`
	Ranges   RangesStatus       `json:"ranges"`
	Allowed  []Allowance        `json:"allowed"` // who else may reach the guarded ports
	Counters map[string]Traffic `json:"counters"`
	Problems []Problem          `json:"problems"`
	Daemon   Process            `json:"daemon"`
	Repairs  Repairs            `json:"repairs"` // of changes by other programs
	Off      *Off               `json:"off,omitempty"`
	Confirm  *Trial             `json:"confirm,omitempty"` // the config is in force until then, unless confirmed
	Open     []string           `json:"open"`              // what the world can reach besides: listeners that no rule closes
	Inbound  InboundStatus      `json:"inbound"`
	Outbound OutboundStatus     `json:"outbound"`
	Tunnel   *TunnelStatus      `json:"tunnel,omitempty"`   // in mode tunnel
	WouldBe  *WouldBe           `json:"would_be,omitempty"` // in audit mode
	// Difference is that of the config file, where it was refused or not loaded.
	Difference *Difference `json:"config_difference,omitempty"`
}

// InboundStatus says what else may come in.
type InboundStatus struct {
	Policy string   `json:"policy"` // "accept" or "drop"
	Open   []string `json:"open"`   // entries of the config; without meaning while the policy is accept
}

// OutboundStatus says what this host may send.
type OutboundStatus struct {
	Policy    string       `json:"policy"` // "accept" or "drop"
	Allow     []string     `json:"allow"`
	Resolvers []netip.Addr `json:"resolvers"`
	Rejected  []Rejected   `json:"rejected"` // the latest first
}

// Rejected is where this host was not let send to.
type Rejected struct {
	Protocol    string         `json:"protocol"`
	Destination netip.AddrPort `json:"destination"`
	Packets     uint64         `json:"packets"`
	Last        time.Time      `json:"last"`
}

// Guarded names the ports that the policy guards.
type Guarded struct {
	TCP string `json:"tcp"`
	UDP string `json:"udp"`
}

// Allowance names somebody besides Cloudflare.
type Allowance struct {
	Who   string    `json:"who"`            // an address, a network or "interface NAME"
	Until time.Time `json:"until,omitzero"` // of `cfwall allow`; zero: as long as the config says so
}

// TableStatus compares the kernel's table with the wanted one.
type TableStatus struct {
	Present bool `json:"present"`
	// Ownership says who may change it: "owned": the daemon alone; "plain": any
	// program with CAP_NET_ADMIN; "orphan": so, until a daemon adopts it;
	// "foreign": another process. "" without a table.
	Ownership  firewall.Hold `json:"ownership"`
	Matches    bool          `json:"matches"`
	Generation uint32        `json:"generation"`
	IPv6       bool          `json:"ipv6"` // false on a host without IPv6
}

// RangesStatus sums up the list.
type RangesStatus struct {
	IPv4      int       `json:"ipv4"`
	IPv6      int       `json:"ipv6"`
	Source    string    `json:"source"`
	ETag      string    `json:"etag,omitempty"`
	FetchedAt time.Time `json:"fetched_at,omitzero"`
	CheckedAt time.Time `json:"checked_at,omitzero"`
	NextAt    time.Time `json:"next_at,omitzero"`
	LastError string    `json:"last_error,omitempty"`
	Held      string    `json:"held,omitempty"`
	Agreement string    `json:"agreement,omitempty"`
}

// Traffic is the value of a counter.
type Traffic struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Process tells who keeps the table.
type Process struct {
	Running bool   `json:"running"`
	PID     int    `json:"pid,omitempty"`
	Version string `json:"version,omitempty"`
}

// Status implements Service.
func (e *Engine) Status(ctx context.Context) (Status, error) {
	s, err := e.tableStatus(ctx)
	if err == nil {
		s.lookAround(ctx, e.surroundings, e.config)
	}
	return s, err
}

// lookAround adds what is not in our table: it asks other programs, and so is
// not for the daemon's loop.
func (s *Status) lookAround(ctx context.Context, around surroundings, c config.Config) {
	if c.Policy.Mode == firewall.ModeTunnel {
		t, problems := around.lookAtTunnel(ctx, c, false)
		s.Tunnel = &t
		s.Problems = append(s.Problems, problems...)
	}
	s.judge()
}

// tableStatus is what the daemon knows and the kernel holds.
func (e *Engine) tableStatus(ctx context.Context) (Status, error) {
	now := time.Now()
	s := e.known(now)
	want, host, err := e.Want(now)
	if err != nil {
		s.Problems = append(s.Problems, Problem{"no-ruleset", Unprotected, err.Error(), cureOf(err)})
	}
	have, err := e.table.Read(ctx, familyOf(host))
	if err == nil && !matches(have, want) {
		have, err = e.table.Read(ctx, familyOf(host)) // see compare
	}
	if err != nil {
		return s, err
	}
	s.table(have, want, host)
	s.unguarded(e.config.Policy, host)
	s.addOpen(e.guarding(s.Table), host)
	s.Problems = append(s.Problems, e.problems(now, s.Table)...)
	s.Problems = append(s.Problems, e.outboundProblems(host)...)
	e.addOutbound(ctx, &s, host)
	e.addAudit(ctx, &s, host)
	e.addDifference(&s)
	s.judge()
	return s, nil
}

// known is what needs no look at the kernel.
func (e *Engine) known(now time.Time) Status {
	p := e.config.Policy
	s := Status{
		Schema: StatusSchema, Mode: p.Mode, Audit: p.Audit, Since: e.since, Daemon: e.self, Repairs: e.repairs.clone(),
		Guarded: Guarded{firewall.JoinPorts(p.TCP), firewall.JoinPorts(p.UDP)},
		Ranges:  e.rangesStatus(), Allowed: e.allowedStatus(now), Counters: map[string]Traffic{}, Problems: []Problem{},
		Inbound:  InboundStatus{policyText(p.Inbound.Drop), servicesText(p.Inbound.Open, "from")},
		Outbound: OutboundStatus{policyText(p.Outbound.Drop), servicesText(p.Outbound.Allow, "to"), []netip.Addr{}, []Rejected{}},
	}
	if m := e.at(now); e.state.isOff(m) {
		off := e.state.off.at(m)
		s.Off = &off
	}
	if e.trial.pending() {
		t := e.trial.at(e.at(now))
		s.Confirm = &t
	}
	return s
}

// unguarded names the UDP ports that this host has come to use itself.
func (s *Status) unguarded(p firewall.Policy, h firewall.Host) {
	if risky := firewall.AtRisk(p.UDP, h); len(risky) > 0 {
		s.Guarded.UDP = firewall.JoinPorts(feasible(p, h).UDP)
		s.Problems = append(s.Problems, Problem{"udp-not-guarded", Degraded, fmt.Sprintf("udp %s: %v, so it is not guarded", firewall.JoinPorts(risky), firewall.ErrEphemeralUDP), cureOf(firewall.ErrEphemeralUDP)})
	}
}

func (s *Status) addOpen(p firewall.Policy, h firewall.Host) {
	listeners, err := kernel.Listeners()
	if err != nil {
		s.Problems = append(s.Problems, Problem{"listeners-unknown", Warning, "what else the world can reach is not known: " + err.Error(), "a kernel with CONFIG_INET_DIAG and CONFIG_INET_UDP_DIAG tells"})
	}
	s.Open = reachable(p, listeners, h)
}

func policyText(drop bool) string {
	if drop {
		return "drop"
	}
	return "accept"
}

func servicesText(all []firewall.Service, preposition string) []string {
	texts := []string{}
	for _, s := range all {
		texts = append(texts, s.Text(preposition))
	}
	return texts
}

// addOutbound lists where this host was not let send to lately. That is no part
// of the verdict, so it may be missing.
func (e *Engine) addOutbound(ctx context.Context, s *Status, h firewall.Host) {
	if !e.config.Policy.Outbound.Drop {
		return
	}
	s.Outbound.Resolvers = append(s.Outbound.Resolvers, h.Resolvers...)
	all, err := e.table.Remembered(ctx, familyOf(h), "rejected4", "rejected6")
	if err != nil {
		e.log.Warn("rejected destinations could not be listed", "error", err)
	}
	for _, r := range all {
		s.Outbound.Rejected = append(s.Outbound.Rejected, Rejected{r.Protocol, r.Peer, r.Packets, r.Last})
	}
}

// guarding is the policy in so far as a table is there to enforce it.
func (e *Engine) guarding(t TableStatus) firewall.Policy {
	if !t.Present || e.config.Policy.Audit {
		return firewall.Policy{}
	}
	return e.config.Policy
}

func (s *Status) table(have firewall.State, want firewall.Ruleset, h firewall.Host) {
	s.Table = TableStatus{Generation: have.Generation, IPv6: h.IPv6}
	if have.Table == nil {
		s.Since = time.Time{}
		return
	}
	s.Table.Present, s.Table.Ownership = true, have.Table.Hold
	s.Table.Matches = matches(have, want)
	if !s.Table.Matches {
		s.Since = time.Time{}
	}
	for _, c := range have.Table.Counters {
		s.Counters[c.Name] = Traffic{c.Packets, c.Bytes}
	}
}

// matches reports whether a table is there and has in it what is wanted. How it is
// held is another question.
func matches(have firewall.State, want firewall.Ruleset) bool {
	have.Best = ""
	return have.Table != nil && len(want.Chains) > 0 && firewall.MakePlan(have, want).Empty()
}

// judge derives the verdict from the gravest problem.
func (s *Status) judge() {
	slices.SortStableFunc(s.Problems, func(a, b Problem) int { return cmp.Compare(grade(b.Severity), grade(a.Severity)) })
	s.Verdict = VerdictProtected
	if len(s.Problems) > 0 {
		s.Verdict = []string{VerdictProtected, VerdictDegraded, VerdictUnprotected}[grade(s.Problems[0].Severity)]
	}
}

func grade(s Severity) int {
	return max(slices.Index([]Severity{Warning, Degraded, Unprotected}, s), 0)
}

func (e *Engine) rangesStatus() RangesStatus {
	b := e.book
	s := RangesStatus{
		IPv4: len(b.Current.List.V4()), IPv6: len(b.Current.List.V6()),
		Source: b.Current.From, ETag: b.Current.ETag, FetchedAt: b.Current.FetchedAt,
		CheckedAt: b.CheckedAt, NextAt: b.NextAt, Agreement: b.Agreement,
	}
	if b.Failures > 0 {
		s.LastError = string(b.LastOutcome.Class) + ": " + b.LastOutcome.Text
	}
	if b.Held != nil {
		s.Held = b.Held.Reason
	}
	return s
}

func (e *Engine) allowedStatus(now time.Time) []Allowance {
	allowed := []Allowance{}
	for _, n := range e.config.Policy.Allow.Networks() {
		allowed = append(allowed, Allowance{Who: networkText(n)})
	}
	for _, t := range e.state.current(e.at(now)) {
		allowed = append(allowed, Allowance{networkText(t.Network), t.Expires})
	}
	for _, i := range e.config.Policy.Interfaces {
		allowed = append(allowed, Allowance{Who: "interface " + i})
	}
	return allowed
}

// networkText prints a network, or a single address without its length.
func networkText(n netip.Prefix) string {
	if n.IsSingleIP() {
		return n.Addr().String()
	}
	return n.String()
}

// problems lists what is wrong with the table, the list, the config and the disk.
func (e *Engine) problems(now time.Time, t TableStatus) []Problem {
	problems := append(e.tableProblems(now, t), e.auditProblems()...)
	if e.lastErr != nil {
		problems = append(problems, Problem{"pass-failed", Degraded, "the last pass failed: " + e.lastErr.Error(), cureOf(e.lastErr)})
	}
	switch {
	case t.Ownership == firewall.Foreign:
		problems = append(problems, Problem{"table-foreign", Degraded, "another process holds the table, and it is not the daemon that answers at " + e.paths.socket(),
			"ask that one, by its --runtime-dir; if it does not answer, restart it: the rules stay"})
	case !e.self.Running:
		problems = append(problems, Problem{"no-daemon", Degraded, "no daemon keeps the table and the list up to date", "start it: " + HowToStart()})
	}
	return append(problems, e.ownProblems(now)...)
}

// ownProblems are those that are known without asking the kernel or others.
func (e *Engine) ownProblems(now time.Time) []Problem {
	return slices.Concat(e.trialProblems(now), e.configProblems, e.guardian.problems(now), e.ending.problems(), e.state.forcedProblems(),
		e.diskProblems(now), e.stateProblems, e.storeProblems, e.rangesProblems(now))
}

func (e *Engine) tableProblems(now time.Time, t TableStatus) []Problem {
	switch {
	case e.state.isOff(e.at(now)):
		return []Problem{{"off", Unprotected, "switched off by `cfwall off`: every port is open", "cfwall on"}}
	case !t.Present:
		return []Problem{{"no-table", Unprotected, "no table of cfwall's is in the kernel: every port is open", "start the daemon (" + HowToStart() + "), or once: cfwall apply"}}
	case !t.Matches:
		cure := "cfwall plan shows the difference, cfwall apply mends it"
		if t.Ownership == firewall.Foreign {
			cure = "cfwall plan shows the difference; only the process that holds the table can mend it"
		}
		return []Problem{{"table-differs", Unprotected, "the table in the kernel is not the one that the policy wants", cure}}
	default:
		return nil
	}
}

func (e *Engine) rangesProblems(now time.Time) []Problem {
	var problems []Problem
	add := func(code string, s Severity, cure, format string, args ...any) {
		problems = append(problems, Problem{code, s, fmt.Sprintf(format, args...), cure})
	}
	const why = "cfwall ranges fetch says why"
	age, freshness := e.book.Freshness(now)
	days := int(age.Hours() / 24)
	switch {
	case e.book.Current.From == "embedded":
		add("list-embedded", Degraded, "let it reach https://api.cloudflare.com; "+why,
			"the list is the one built into cfwall, of %s (%d days old): none was downloaded yet", e.book.Current.FetchedAt.Format(time.DateOnly), days)
	case freshness == "stale":
		add("list-stale", Degraded, why, "the list was last checked %d days ago", days)
	case freshness == "old":
		add("list-old", Warning, why, "the list was last checked %d days ago", days)
	case e.book.Failures > 0:
		add("fetch-failing", Warning, why, "the last %d fetches failed: %s", e.book.Failures, e.book.LastOutcome.Text)
	}
	if e.book.Held != nil {
		add("list-held", Degraded, "look at it (cfwall ranges diff), then: cfwall ranges accept", "a new list is held back: %s", e.book.Held.Reason)
	}
	if e.book.Agreement == "disagree" {
		add("sources-disagree", Warning, "wait for the next fetch; if it lasts, compare: cfwall ranges diff", "Cloudflare's API and its text pages give different lists")
	}
	return problems
}

// cureOf is the hint that belongs to an error.
func cureOf(err error) string {
	if hint := refusalOf(err).Hint; hint != "" {
		return hint
	}
	return "cfwall apply tries again and says what happens"
}
