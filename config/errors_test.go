package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
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
		if diff := cmp.Diff(want, message); diff != "" && !*update {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	})
	return message
}
