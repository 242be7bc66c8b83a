package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cfwall/cfwall/ipranges"
)

const recording = "../../testdata/api-ips.json"

// The committed list is what go generate would write.
func TestEmbeddedListIsUpToDate(t *testing.T) {
	body, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	date := ipranges.Embedded().FetchedAt.Format(time.DateOnly)
	want, err := generate(date, body)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../embedded.json")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("run go generate ./ipranges (-want +got):\n%s", diff)
	}
	source, err := os.ReadFile("../../record.go")
	if err != nil {
		t.Fatal(err)
	}
	if line := "//go:generate go run ./internal/gen " + date + " testdata/api-ips.json\n"; !strings.Contains(string(source), line) {
		t.Errorf("record.go does not say %q", line)
	}
}

func TestRun(t *testing.T) {
	input, err := filepath.Abs(recording)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := run("2026-10-02", input); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(output); err != nil {
		t.Fatal(err)
	}
	if err := run("2026-10-02", "absent.json"); err == nil {
		t.Error("an absent recording was taken")
	}
}

func TestGenerateRefuses(t *testing.T) {
	list := `{"success":true,"result":{"ipv4_cidrs":["NETWORK"],"ipv6_cidrs":["2606:4700::/32"]}}`
	tests := []struct{ name, date, body string }{
		{"no list", "2026-10-02", "<html>"},
		{"no date", "yesterday", strings.Replace(list, "NETWORK", "104.16.0.0/13", 1)},
		{"implausible", "2026-10-02", strings.Replace(list, "NETWORK", "10.0.0.0/8", 1)},
	}
	for _, tt := range tests {
		if out, err := generate(tt.date, []byte(tt.body)); err == nil {
			t.Errorf("%s: generated %s", tt.name, out)
		}
	}
}
