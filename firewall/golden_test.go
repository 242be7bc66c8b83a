package firewall_test

import (
	"flag"
	"os"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/cfwall/cfwall/internal/cases"
)

var update = flag.Bool("update", false, "write testdata/cases/*/want.nft")

// Time stands still in a synctest bubble, so what is left of temporary entries
// is always the same.
func TestText(t *testing.T) {
	for _, name := range cases.Names(t) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testText(t, cases.Load(t, name)) })
		})
	}
}

func testText(t *testing.T, c cases.Case) {
	got := c.Build(t).String()
	if *update {
		if err := os.WriteFile(c.Want, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(c.Want)
	if err != nil {
		t.Fatalf("%v (-update makes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}
