package daemon

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDifferenceFrom(t *testing.T) {
	const inForce = "[web]\ntcp = [80, 443]\n"
	for name, test := range map[string]struct {
		file string
		want *Difference
	}{
		"none":             {inForce, nil},
		"a port":           {"[web]\ntcp = [80, 443, 8443]\n", &Difference{1, 1, true, []string{"@@ -1,2 +1,2 @@", " [web]", "-tcp = [80, 443]", "+tcp = [80, 443, 8443]"}}},
		"a comment":        {"# mine\n" + inForce, &Difference{1, 0, false, []string{"@@ -1,2 +1,3 @@", "+# mine", " [web]", " tcp = [80, 443]"}}},
		"all of it":        {"", &Difference{0, 2, false, []string{"@@ -1,2 +0,0 @@", "-[web]", "-tcp = [80, 443]"}}},
		"a mistake":        {inForce + "tpc = [1]\n", &Difference{1, 0, true, []string{"@@ -1,2 +1,3 @@", " [web]", " tcp = [80, 443]", "+tpc = [1]"}}},
		"a terminal's own": {inForce + "# \x1b[2J\n", &Difference{1, 0, true, []string{"@@ -1,2 +1,3 @@", " [web]", " tcp = [80, 443]", "+# \uFFFD[2J"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if test.want != nil {
				test.want.Lines = append([]string{"--- in force", "+++ FILE"}, test.want.Lines...)
			}
			if d := cmp.Diff(test.want, differenceFrom([]byte(inForce), []byte(test.file), "FILE")); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestDifferenceIsBounded(t *testing.T) {
	d := differenceFrom(nil, []byte(strings.Repeat("# another\n", 100_000)), "FILE")
	if len(d.Lines) != longestDiff+1 || d.Added != 100_000 || d.Lines[longestDiff] != fmt.Sprintf("... and %d more lines", 100_003-longestDiff) {
		t.Errorf("%d lines are shown of %d, the last is %q", len(d.Lines), d.Added, d.Lines[len(d.Lines)-1])
	}
}

// What is in force is compared with the file wherever the policy came from.
func TestDifferenceOfTheStart(t *testing.T) {
	const good, broken = "[web]\ntcp = [80, 443]\n", "mode = \"cloudflair\"\n"
	for name, test := range map[string]struct {
		config, last string
		ssh          uint16
		removed      []string // nil: there is no difference
	}{
		"no file, and none before":            {"", "", 22, nil},
		"a good file":                         {good, "", 22, nil},
		"a good file, and another before":     {good, "[web]\ntcp = [8443]\n", 22, nil},
		"a file with a port left for SSH":     {good, "", 443, nil},
		"a broken file, and a good one kept":  {broken, good, 22, []string{"-[web]", "-tcp = [80, 443]"}},
		"a broken file, and nothing was kept": {broken, "", 22, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			e, _, _ := newTestEngine(t)
			e.ssh = sshOn(test.ssh)
			writeFile(t, e.paths.Config, test.config)
			writeFile(t, e.paths.lastConfig(), test.last)
			e.LoadConfigOrFallback()
			if _, err := e.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			s, err := e.Status(t.Context())
			if err != nil || has(s.Problems, "config-not-loaded", "") || (s.Difference == nil) != (test.removed == nil) {
				t.Fatalf("difference: %v, problems: %v (%v)", s.Difference, s.Problems, err)
			}
			if s.Difference == nil {
				return
			}
			removed := []string{}
			for _, l := range s.Difference.Lines[2:] {
				if strings.HasPrefix(l, "-") {
					removed = append(removed, l)
				}
			}
			if d := cmp.Diff(test.removed, removed); d != "" || s.Difference.Added != 1 {
				t.Errorf("removed (-want +got):\n%s, added: %d", d, s.Difference.Added)
			}
		})
	}
}

// The status tells of a file that nobody has loaded, if it means something else.
func TestDifferenceSinceTheConfigWasLoaded(t *testing.T) {
	e, _, _ := newTestEngine(t)
	writeFile(t, e.paths.Config, "[web]\ntcp = [443]\n")
	if _, err := e.Apply(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ file, problem string }{
		{"[web]\ntcp = [443]\n", ""},
		{"# one port\n[web]\ntcp = [443]\n", ""},
		{"[web]\ntcp = [443, 8443]\n", "it was not loaded since it changed (1 line added, 1 removed)"},
		{"[web]\ntpc = [443]\n", `a reload would refuse it: `},
		{"[web]\ntcp = [443]\n", ""},
	} {
		writeFile(t, e.paths.Config, step.file)
		s, err := e.Status(t.Context())
		if err != nil || has(s.Problems, "config-not-loaded", step.problem) != (step.problem != "") || (s.Difference != nil) != (step.problem != "") {
			t.Errorf("%q: difference %v, problems %v (%v)", step.file, s.Difference, s.Problems, err)
		}
	}
	if err := os.Remove(e.paths.Config); err != nil {
		t.Fatal(err)
	}
	if s, err := e.Status(t.Context()); err != nil || !has(s.Problems, "config-not-loaded", "is gone") {
		t.Errorf("a file that is gone: %v (%v)", s.Problems, err)
	}
}

// Check compares with what the daemon works by, not with what is on its disk.
func TestCheckAsksTheDaemonWhatIsInForce(t *testing.T) {
	c, d, _, _ := serveTest(t)
	writeFile(t, d.engine.paths.Config, "[web]\ntcp = [443]\n")
	if _, err := c.Reload(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	writeFile(t, d.engine.paths.lastConfig(), "[web]\ntcp = [8080]\n")
	e, _, _ := newTestEngine(t)
	e.paths = d.engine.paths
	for file, want := range map[string]string{
		"[web]\ntcp = [443]\n":       "",
		"[web]\ntcp = [443, 8443]\n": "-tcp = [443]",
		"[web]\ntpc = [443]\n":       "-tcp = [443]",
	} {
		writeFile(t, e.paths.Config, file)
		checked, _ := e.Check(t.Context(), Order{}, false)
		if (checked.Difference != nil) != (want != "") || want != "" && !strings.Contains(strings.Join(checked.Difference.Lines, "\n"), want) {
			t.Errorf("%q: %v", file, checked.Difference)
		}
	}
}
