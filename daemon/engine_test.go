package daemon

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/ipranges"
)

// A call that failed is settled by reading, not by its error.
func TestPassSettlesErrorsByReading(t *testing.T) {
	for name, test := range map[string]struct {
		err     error
		done    bool // whether the kernel carried out the change all the same
		times   int  // how often it fails
		want    error
		applies int
	}{
		"uncertain, but done":        {kernel.ErrUncertain, true, 1, nil, 1},
		"uncertain, and not done":    {kernel.ErrUncertain, false, 1, nil, 2},
		"another program was faster": {kernel.ErrBusy, false, 1, nil, 2},
		"refused, but done":          {kernel.ErrRefused, true, 1, nil, 1},
		"refused":                    {kernel.ErrRefused, false, 99, kernel.ErrRefused, 2},
		"refused once":               {kernel.ErrRefused, false, 1, nil, 2},
		"no permission":              {kernel.ErrPermission, false, 99, kernel.ErrPermission, 1},
		"always busy":                {kernel.ErrBusy, false, 99, kernel.ErrBusy, 3},
	} {
		t.Run(name, func(t *testing.T) {
			e, table, _ := newTestEngine(t)
			table.fail = func(n int) (error, bool) {
				if n <= test.times {
					return test.err, test.done
				}
				return nil, true
			}
			_, err := e.Pass(t.Context())
			if !errors.Is(err, test.want) {
				t.Errorf("the pass ended with %v, want %v", err, test.want)
			}
			if table.applied != test.applies {
				t.Errorf("%d tries, want %d", table.applied, test.applies)
			}
			s, err := e.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			closed := !table.admits("198.51.100.7", 443)
			if (s.Verdict == VerdictUnprotected) == closed {
				t.Errorf("the verdict is %q while the ports are closed: %v", s.Verdict, closed)
			}
		})
	}
}

func TestPassDoesNothingWhereNothingIsToDo(t *testing.T) {
	e, table, _ := newTestEngine(t)
	for range 100 {
		if _, err := e.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if table.applied != 1 {
		t.Errorf("the table was written %d times, want once", table.applied)
	}
}

func TestStartNeverGoesWithoutAPolicy(t *testing.T) {
	const broken = "mode = \"cloudflair\"\n"
	for name, test := range map[string]struct {
		config, last string
		ssh          []uint16
		guarded      string // tcp
		problem      string
	}{
		"no file":                          {"", "", nil, "80,443", ""},
		"a good file":                      {"[web]\ntcp = [8443]\n", "", nil, "8443", ""},
		"a broken file":                    {broken, "", nil, "80,443", "the default policy"},
		"a broken file, and the last good": {broken, "[web]\ntcp = [8443]\n", nil, "8443", "the last one that worked"},
		"both broken":                      {broken, broken, nil, "80,443", "the default policy"},
		"SSH on a guarded port":            {"[web]\ntcp = [443, 8443]\n", "", []uint16{22, 8443}, "443", "port 8443 is where SSH listens"},
		"SSH on a port of the default":     {"", "", []uint16{443}, "80", "port 443 is where SSH listens"},
	} {
		t.Run(name, func(t *testing.T) {
			e, table, _ := newTestEngine(t)
			e.ssh = sshOn(test.ssh...)
			writeFile(t, e.paths.Config, test.config)
			writeFile(t, e.paths.lastConfig(), test.last)
			e.LoadConfigOrFallback()
			if _, err := e.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			s, err := e.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if s.Guarded.TCP != test.guarded {
				t.Errorf("guarded are %s, want %s", s.Guarded.TCP, test.guarded)
			}
			for _, port := range test.ssh {
				if !table.admits("198.51.100.7", port) {
					t.Errorf("SSH on port %d is cut off", port)
				}
			}
			i := slices.IndexFunc(s.Problems, func(p Problem) bool { return p.Code == "config-refused" || p.Code == "ssh-left-open" })
			if (i >= 0) != (test.problem != "") || i >= 0 && !strings.Contains(s.Problems[i].Text, test.problem) {
				t.Errorf("want a problem with %q, got %v", test.problem, s.Problems)
			}
		})
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if text == "" {
		return
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A config that worked is kept, and one that was only looked at is not.
func TestLastConfigIsTheOneThatWorked(t *testing.T) {
	e, _, _ := newTestEngine(t)
	const good = "[web]\ntcp = [8443]\n"
	writeFile(t, e.paths.Config, good)
	if _, err := e.Plan(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(e.paths.lastConfig()); err == nil {
		t.Error("a plan kept the config")
	}
	if _, err := e.Apply(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(e.paths.lastConfig()); string(b) != good {
		t.Errorf("kept is %q", b)
	}
}

func TestApplyRefusesWhatWouldLockOut(t *testing.T) {
	e, table, _ := newTestEngine(t)
	if _, err := e.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.ssh = sshOn(2222)
	writeFile(t, e.paths.Config, "[web]\ntcp = [2222]\n")
	_, err := e.Apply(t.Context(), Order{})
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Exit != ExitUsage || !strings.Contains(refusal.Error(), "2222") {
		t.Errorf("refused with %v", err)
	}
	if !table.admits("198.51.100.7", 2222) || table.admits("198.51.100.7", 443) {
		t.Error("the refused config changed the policy")
	}
	if _, err := e.Apply(t.Context(), Order{Force: true}); err != nil {
		t.Errorf("--force: %v", err)
	}
	// Force is about SSH alone: what cannot be built is not taken over.
	e.host = func() (firewall.Host, error) {
		return firewall.Host{IPv6: true, Ephemeral: []firewall.PortRange{{First: 40000, Last: 50000}}}, nil
	}
	writeFile(t, e.paths.Config, "[web]\nudp = [45000]\n")
	if _, err := e.Apply(t.Context(), Order{Force: true}); !errors.Is(err, firewall.ErrEphemeralUDP) {
		t.Errorf("--force with a UDP port of the ephemeral range: %v", err)
	}
	if _, err := e.Pass(t.Context()); err != nil {
		t.Errorf("the policy before it does not stand: %v", err)
	}
}

// Entries and the switch survive a restart; broken files do not open anything.
func TestStateSurvivesARestart(t *testing.T) {
	e, table, _ := newTestEngine(t)
	entry := netip.MustParsePrefix("198.51.100.7/32")
	if _, err := e.Allow(t.Context(), entry, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Off(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	again := *e
	again.state = state{}
	again.LoadState()
	if !again.state.isOff(e.clock()) || len(again.state.current(e.clock())) != 1 {
		t.Errorf("after a restart: %+v", again.state)
	}
	writeFile(t, e.paths.off(), "{broken")
	writeFile(t, e.paths.allow(), "[{]")
	again.state = state{}
	again.LoadState()
	if _, err := again.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if table.admits("198.51.100.7", 443) || !table.admits("104.16.0.1", 443) {
		t.Error("broken state opens or closes the ports")
	}
	if s, _ := again.Status(t.Context()); !slices.ContainsFunc(s.Problems, func(p Problem) bool { return p.Code == "state-unreadable" }) {
		t.Errorf("the broken state is not said: %v", s.Problems)
	}
}

func TestOffEndsWithTheService(t *testing.T) {
	e, _, _ := newTestEngine(t)
	e.LoadConfigOrFallback()
	if _, err := e.Off(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 { // forgotten is forgotten
		if err := ForgetOff(e.paths); err != nil {
			t.Fatal(err)
		}
	}
	again, _, _ := newTestEngine(t)
	again.paths = e.paths
	again.LoadState()
	if again.state.isOff(e.clock()) {
		t.Error("a new service begins switched off")
	}
}

func TestAllowRefusesNonsense(t *testing.T) {
	e, table, _ := newTestEngine(t)
	for name, test := range map[string]struct {
		network string
		lasting time.Duration
	}{
		"everybody":    {"0.0.0.0/0", time.Hour},
		"everybody v6": {"::/0", time.Hour},
		"no time":      {"198.51.100.7/32", 0},
		"the past":     {"198.51.100.7/32", -time.Hour},
		"for ever":     {"198.51.100.7/32", 100 * 365 * 24 * time.Hour},
	} {
		_, err := e.Allow(t.Context(), netip.MustParsePrefix(test.network), test.lasting)
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Hint == "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if table.applied != 0 {
		t.Error("a refused entry changed the table")
	}
}

// A disk that cannot be written does not keep a list out of force.
func TestUnwritableDisk(t *testing.T) {
	e, table, fetcher := newTestEngine(t)
	writeFile(t, e.paths.State, "a file where the directory should be")
	fetcher.answer = func() (ipranges.Answer, error) {
		return ipranges.Answer{List: listWith("188.42.0.0/20"), From: ipranges.FromAPI, At: time.Now(), Agreement: ipranges.Agree}, nil
	}
	if _, err := e.FetchRanges(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !table.admits("188.42.0.1", 443) {
		t.Error("the list is not in force")
	}
	if s, _ := e.Status(t.Context()); s.Verdict == VerdictProtected {
		t.Error("status does not say that the disk cannot be written")
	}
	if _, err := e.Off(t.Context(), 0); err == nil || table.table == nil {
		t.Error("the ports were opened though that could not be written down")
	}
}

func TestWhy(t *testing.T) {
	e, table, _ := newTestEngine(t)
	writeFile(t, e.paths.Config, "[web]\ntcp = [443]\nudp = [443]\n[allow]\nfrom = [\"192.0.2.0/24\"]\n")
	ask := func(source string, port uint16, protocol string) Explanation {
		t.Helper()
		x, err := e.Why(t.Context(), Question{Source: netip.MustParseAddr(source), Port: port, Protocol: protocol})
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	if x := ask("198.51.100.7", 443, "tcp"); x.Verdict != NoTable {
		t.Errorf("without a table: %+v", x)
	}
	if _, err := e.Apply(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Allow(t.Context(), netip.MustParsePrefix("104.16.0.1/32"), time.Hour); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, q := range []Question{
		{Source: netip.MustParseAddr("104.16.0.1"), Port: 0, Protocol: ""},
		{Source: netip.MustParseAddr("::ffff:104.16.0.1"), Port: 0, Protocol: ""},
		{Source: netip.MustParseAddr("2606:4700::1"), Port: 443, Protocol: "tcp"},
		{Source: netip.MustParseAddr("198.51.100.7"), Port: 443, Protocol: "tcp"},
		{Source: netip.MustParseAddr("198.51.100.7"), Port: 22, Protocol: "tcp"},
		{Source: netip.MustParseAddr("192.0.2.7"), Port: 443, Protocol: "udp"},
		{Source: netip.MustParseAddr("2606:4700::1"), Port: 443, Protocol: "udp"},
	} {
		x := ask(q.Source.String(), q.Port, q.Protocol)
		got[q.Source.String()+" "+q.Protocol] += x.Verdict + " " + x.Entry + ";"
	}
	want := map[string]string{
		"104.16.0.1 ":        "admitted 104.16.0.0/13;",
		"::ffff:104.16.0.1 ": "admitted 104.16.0.0/13;",
		"2606:4700::1 tcp":   "admitted 2606:4700::/32;",
		"198.51.100.7 tcp":   "dropped ;unguarded ;",
		"192.0.2.7 udp":      "admitted 192.0.2.0/24;",
		"2606:4700::1 udp":   "dropped ;",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	table.table.Chains[0].Rules = slices.Insert(slices.Clone(table.table.Chains[0].Rules), 0, firewall.Rule{Code: []firewall.Expr{firewall.Unknown{Name: "ct"}}})
	if x := ask("198.51.100.7", 443, "tcp"); x.Verdict != Unknown {
		t.Errorf("with a rule that nobody understands: %+v", x)
	}
}

func TestStatusTellsTheTruthAboutTheTable(t *testing.T) {
	e, table, _ := newTestEngine(t)
	e.self.Running = true
	e.book.Current.From = ipranges.FromAPI
	e.book.CheckedAt = time.Now()
	e.book.Current.FetchedAt = time.Now()
	if _, err := e.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	verdict := func() string {
		s, err := e.Status(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return s.Verdict
	}
	if got := verdict(); got != VerdictProtected {
		t.Errorf("right table: %s", got)
	}
	rules := table.table.Chains[0].Rules
	table.table.Chains[0].Rules = nil
	if got := verdict(); got != VerdictUnprotected {
		t.Errorf("without its rules: %s", got)
	}
	table.table.Chains[0].Rules = rules
	table.table.Flags = 1 // dormant
	if got := verdict(); got != VerdictUnprotected {
		t.Errorf("dormant: %s", got)
	}
	table.table = nil
	if got := verdict(); got != VerdictUnprotected {
		t.Errorf("without a table: %s", got)
	}
}

// A file that is gone is no empty file where cfwall has worked with one.
func TestConfigThatIsGone(t *testing.T) {
	e, table, _ := newTestEngine(t)
	writeFile(t, e.paths.Config, "[web]\ntcp = [8443]\n")
	if _, err := e.Apply(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(e.paths.Config); err != nil {
		t.Fatal(err)
	}
	var refusal *Refusal
	if _, err := e.Apply(t.Context(), Order{}); !errors.As(err, &refusal) || refusal.Exit != ExitUsage {
		t.Errorf("got %v", err)
	}
	again := *e
	again.LoadConfigOrFallback()
	if _, err := again.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if table.admits("198.51.100.7", 8443) {
		t.Error("a guarded port was opened")
	}
}

// To close does not wait for a disk that can be written.
func TestClosingNeedsNoDisk(t *testing.T) {
	e, table, _ := newTestEngine(t)
	entry := netip.MustParsePrefix("198.51.100.7/32")
	if _, err := e.Allow(t.Context(), entry, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Off(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(e.paths.State); err != nil {
		t.Fatal(err)
	}
	writeFile(t, e.paths.State, "a file where the directory should be")
	if _, err := e.On(t.Context()); err == nil || table.admits("203.0.113.9", 443) {
		t.Errorf("on: %v; a stranger is admitted: %v", err, table.admits("203.0.113.9", 443))
	}
	if err := e.Disallow(t.Context(), entry); err == nil || table.admits("198.51.100.7", 443) {
		t.Errorf("disallow: %v", err)
	}
}

// When the host begins to use a guarded UDP port for its own connections, the
// rest of the policy stays and follows the list.
func TestHostBeginsToUseAUDPPort(t *testing.T) {
	e, table, _ := newTestEngine(t)
	writeFile(t, e.paths.Config, "[web]\ntcp = [443]\nudp = [443, 45000]\n")
	if _, err := e.Apply(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	e.host = func() (firewall.Host, error) {
		return firewall.Host{IPv6: true, Ephemeral: []firewall.PortRange{{First: 40000, Last: 50000}}}, nil
	}
	e.book.Current.List = listWith("188.42.0.0/20")
	if _, err := e.Pass(t.Context()); err != nil || !table.admits("188.42.0.1", 443) {
		t.Errorf("the list is not followed: %v", err)
	}
	s, err := e.Status(t.Context())
	if err != nil || !slices.ContainsFunc(s.Problems, func(p Problem) bool { return p.Code == "udp-not-guarded" }) || s.Guarded.UDP != "443" {
		t.Errorf("status: %+v, %v", s.Problems, err)
	}
}
