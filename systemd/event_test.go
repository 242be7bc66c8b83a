package systemd

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"
)

func TestEventInTheJournal(t *testing.T) {
	var j journald
	Repaired.Log(slog.New(j.handler()), "it was put right", "by", "nft")
	want := entry{"it was put right by=nft", journal.PriWarning, map[string]string{
		"CFWALL_EVENT": "repaired", "MESSAGE_ID": "74e70c69fd1647c7884b33f31683b155", "CFWALL_BY": "nft"}}
	if diff := cmp.Diff([]entry{want}, j.entries); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestEventInText(t *testing.T) {
	var b bytes.Buffer
	log := NewLogger(&b, slog.LevelInfo)
	Repaired.Log(log, "it was put right", "by", "nft")
	Allowed.Log(log, "somebody may come")
	want := "level=WARN msg=\"it was put right\" event=repaired by=nft\n" + "level=NOTICE msg=\"somebody may come\" event=allowed\n"
	if b.String() != want {
		t.Errorf("got %q", b.String())
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	Allowed.Log(NewLogger(file, slog.LevelInfo), "somebody may come")
	if text, err := os.ReadFile(file.Name()); err != nil || !strings.Contains(string(text), " level=NOTICE ") {
		t.Errorf("the file has %q (%v)", text, err)
	}
}

func TestEventsAreDistinct(t *testing.T) {
	id, name := regexp.MustCompile(`^[0-9a-f]{32}$`), regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	seen := map[string]bool{}
	for e, is := range events {
		if !id.MatchString(is.id) || !name.MatchString(is.name) || seen[is.id] || seen[is.name] {
			t.Errorf("event %d: %+v", e, is)
		}
		seen[is.id], seen[is.name] = true, true
	}
}

// An explanation is an entry of a catalog.
type explanation struct {
	headers map[string]string
	text    string
}

// parseCatalog reads the format of https://systemd.io/CATALOG, by MESSAGE_ID.
func parseCatalog(t *testing.T, catalog string) map[string]explanation {
	t.Helper()
	all := map[string]explanation{}
	catalog = regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(catalog, "")
	for _, part := range strings.Split("\n"+strings.TrimLeft(catalog, "\n"), "\n-- ")[1:] {
		id, rest, _ := strings.Cut(part, "\n")
		head, text, _ := strings.Cut(rest, "\n\n")
		x := explanation{map[string]string{}, strings.TrimSpace(text)}
		for line := range strings.Lines(head) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			x.headers[name] = value
		}
		if _, twice := all[id]; twice {
			t.Errorf("%s is explained twice", id)
		}
		all[id] = x
	}
	return all
}

func TestEveryEventIsExplained(t *testing.T) {
	all := parseCatalog(t, Catalog)
	for _, e := range events {
		x := all[e.id]
		h := x.headers
		if h["Subject"] == "" || h["Defined-By"] != "cfwall" || h["Support"] == "" || !strings.HasPrefix(h["Documentation"], "man:cfwall") || x.text == "" {
			t.Errorf("%s: %+v", e.name, x)
		}
		delete(all, e.id)
	}
	if len(all) > 0 {
		t.Errorf("these explain no event: %v", all)
	}
}

// What journalctl makes of the catalog is what we wrote, and it has nothing to say
// about it.
func TestCatalogInJournalctl(t *testing.T) {
	root := lay(t, map[string]string{"usr/lib/systemd/catalog/cfwall.catalog": Catalog})
	if complaint := journalctl(t, root, "--update-catalog"); complaint != "" {
		t.Errorf("journalctl says: %s", complaint)
	}
	if diff := cmp.Diff(parseCatalog(t, Catalog), parseCatalog(t, journalctl(t, root, "--dump-catalog")), cmp.AllowUnexported(explanation{})); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
}

func journalctl(t *testing.T, root string, arguments ...string) string {
	t.Helper()
	out, err := exec.Command("journalctl", append([]string{"--root=" + root, "--no-pager"}, arguments...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("journalctl %v: %v\n%s", arguments, err, out)
	}
	return string(out)
}

// Each event is logged somewhere, by every line of it with the fields that its
// explanation names: journalctl would print the name of one that is missing.
func TestEventsAreLoggedWithTheirFields(t *testing.T) {
	code, field := sources(t, ".", "../daemon", "../cmd/cfwall"), regexp.MustCompile(`@CFWALL_([A-Z_]+)@`)
	all := parseCatalog(t, Catalog)
	for _, e := range events {
		lines := regexp.MustCompile(fmt.Sprintf(`(systemd\.%s\b|\b%[1]s\.Log\().*`, identifier(e.name))).FindAllString(code, -1)
		if len(lines) == 0 {
			t.Errorf("%s is never logged", e.name)
		}
		for _, match := range field.FindAllStringSubmatch(all[e.id].text, -1) {
			for _, line := range lines {
				if !strings.Contains(line, fmt.Sprintf("%q, ", strings.ToLower(match[1]))) {
					t.Errorf("%s: no %s in %s", e.name, match[1], line)
				}
			}
		}
	}
	if untyped := regexp.MustCompile(`.*"event", .*`).FindString(code); untyped != "" {
		t.Errorf("an event without an ID: %s", untyped)
	}
}

// identifier matches what an event is called in Go.
func identifier(name string) string {
	var pattern strings.Builder
	for part := range strings.SplitSeq(name, "-") {
		pattern.WriteString(strings.ToUpper(part[:1]) + "(?i:" + part[1:] + ")")
	}
	return pattern.String()
}

// sources is the code of some packages, but for that of tests and of the events.
func sources(t *testing.T, dirs ...string) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range dirs {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil || len(files) == 0 {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") || file == "event.go" {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(text)
		}
	}
	return all.String()
}

// The table in docs/journal.md says the same.
func TestDocumentedEvents(t *testing.T) {
	text, err := os.ReadFile("../docs/journal.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `") {
			documented = append(documented, strings.TrimSpace(line))
		}
	}
	all := parseCatalog(t, Catalog)
	var want []string
	for _, e := range events {
		want = append(want, fmt.Sprintf("| `%s` | %s | %s |", e.name, priorityNames[priority(e.level)], all[e.id].headers["Subject"]))
	}
	if !slices.Equal(documented, want) {
		t.Errorf("docs/journal.md should have:\n%s", strings.Join(want, "\n"))
	}
}

// priorityNames are those of journalctl.
var priorityNames = map[journal.Priority]string{journal.PriErr: "err", journal.PriWarning: "warning", journal.PriNotice: "notice", journal.PriInfo: "info"}
