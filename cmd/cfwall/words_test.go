package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestWordsOfTime(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]struct{ ago, in string }{
		-time.Second:               {"0 s ago", "in 0 s"}, // of a clock that was set back
		59 * time.Second:           {"59 s ago", "in 59 s"},
		58*time.Minute + 50e9:      {"58 min ago", "in 59 min"},
		time.Hour:                  {"60 min ago", "in 60 min"},
		6*time.Hour - time.Second:  {"5 h ago", "in 6 h"},
		9*24*time.Hour + time.Hour: {"9 days ago", "in 9 days"},
	} {
		if got := ago(now.Add(-d), now); got != want.ago {
			t.Errorf("%v are %q, want %q", d, got, want.ago)
		}
		if got := in(now.Add(d), now); got != want.in {
			t.Errorf("%v are %q, want %q", d, got, want.in)
		}
	}
}

func TestQuantity(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 41_204: "41,204", 1_005: "1,005", 1_900_000: "1.9 M", 2_500_000_000: "2.5 G"} {
		if got := quantity(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

func TestHangFitsAndKeepsEveryWord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.StringMatching(`[a-zé→]{1,30}`), 1, 40).Draw(t, "words")
		printed := hang("  name        ", strings.Join(words, " "))
		if got := strings.Fields(printed)[1:]; strings.Join(got, " ") != strings.Join(words, " ") {
			t.Errorf("got the words %q", got)
		}
		for line := range strings.Lines(printed) {
			if utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > width {
				t.Errorf("too wide: %q", line)
			}
		}
	})
}
