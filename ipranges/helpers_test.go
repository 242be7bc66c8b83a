package ipranges

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// start is the day on which most tests begin: a month after the recording.
var start = time.Date(2026, 11, 2, 8, 0, 0, 0, time.UTC)

// networks reads networks separated by blanks.
func networks(text string) List {
	var all []netip.Prefix
	for s := range strings.FieldsSeq(text) {
		all = append(all, netip.MustParsePrefix(s))
	}
	return NewList(all...)
}

// recorded reads a body that Cloudflare has served.
func recorded(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// published is the list of the recorded answer.
func published(t testing.TB) List {
	t.Helper()
	list, _, err := ParseJSON(recorded(t, "api-ips.json"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// before2021 is the list until 8 April 2021.
func before2021(t testing.TB) List {
	t.Helper()
	return published(t).Minus(networks("104.16.0.0/13 104.24.0.0/14")).Union(networks("104.16.0.0/12"))
}

func wantClass(t testing.TB, err error, want Class) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want class %q", want)
	}
	if got := classOf(err); got != want {
		t.Fatalf("class %q, want %q: %v", got, want, err)
	}
}

// contains reports whether every address of m is in l.
func contains(l, m List) bool { return m.Minus(l).Len() == 0 }
