package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the messages of testdata/*.txtar anew")

// TestMessages compares what the administrator reads about each bad file. A
// file of testdata holds cases in the form of a txtar archive: "NAME.toml" is
// the bad file, "NAME.want" the message.
func TestMessages(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("archives: %v, %v", archives, err)
	}
	for _, archive := range archives {
		text, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		sections := strings.Split(strings.TrimSpace(string(text)), "\n-- ")
		var got strings.Builder
		got.WriteString(sections[0])
		for i, section := range sections[1:] {
			name, toml, isCase := strings.Cut(section, ".toml --\n")
			if !isCase {
				continue
			}
			want := ""
			if i+2 < len(sections) {
				want, _ = strings.CutPrefix(sections[i+2], name+".want --\n")
			}
			message := testMessage(t, name, toml+"\n", strings.TrimSuffix(want, "\n"))
			fmt.Fprintf(&got, "\n-- %s.toml --\n%s\n-- %s.want --\n%s", name, toml, name, message)
		}
		if *update {
			if err := os.WriteFile(archive, []byte(got.String()+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func testMessage(t *testing.T, name, toml, want string) (message string) {
	t.Run(name, func(t *testing.T) {
		_, err := Parse(strings.NewReader(toml), "config.toml")
		if err == nil {
			t.Fatal("the file was accepted")
		}
		message = err.Error()
		followAll(t, toml, err)
		if diff := cmp.Diff(want, message); diff != "" && !*update {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	})
	return message
}

var quoted = regexp.MustCompile(`"[^"]*"`)

// followAll does what the messages about a file say: each text that they say to
// write goes where the mark is, or where it is a whole line, in place of that.
func followAll(t *testing.T, toml string, err error) {
	t.Helper()
	all, _ := errors.AsType[Errors](err)
	for _, e := range all {
		suggested, found := strings.CutPrefix(e.Suggestion, "write ")
		switch {
		case !found:
		case strings.Contains(suggested, ` = "`):
			follow(t, toml, e, suggested)
		default:
			line, start := []rune(strings.Split(toml, "\n")[e.Line-1]), e.Column-1
			end := start + strings.Count(e.mark, "^")
			for _, text := range quoted.FindAllString(suggested, -1) {
				follow(t, toml, e, string(line[:start])+text+string(line[end:]))
			}
		}
	}
}

// follow puts another line in place of one with an error.
func follow(t *testing.T, toml string, e *Error, line string) {
	t.Helper()
	lines := strings.Split(toml, "\n")
	lines[e.Line-1] = line
	_, err := Parse(strings.NewReader(strings.Join(lines, "\n")), "config.toml")
	left, _ := errors.AsType[Errors](err)
	if slices.ContainsFunc(left, func(l *Error) bool { return l.Line == e.Line && l.Column == e.Column }) {
		t.Errorf("%s\nis no better than before:\n%v", line, err)
	}
}
