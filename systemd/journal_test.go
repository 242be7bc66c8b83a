package systemd

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"
)

// entry is what journald was sent.
type entry struct {
	Message  string
	Priority journal.Priority
	Fields   map[string]string
}

// journald keeps the entries that it is sent.
type journald struct{ entries []entry }

func (j *journald) send(message string, priority journal.Priority, fields map[string]string) error {
	j.entries = append(j.entries, entry{message, priority, fields})
	return nil
}

func (j *journald) handler() journalHandler {
	return journalHandler{level: slog.LevelDebug, send: j.send, hand: now}
}

func TestJournalHandlerIsASlogHandler(t *testing.T) {
	var j journald
	slogtest.Run(t, func(*testing.T) slog.Handler {
		j = journald{}
		return j.handler()
	}, func(t *testing.T) map[string]any {
		got := asSlogtestWants(j.entries[0])
		if strings.HasSuffix(t.Name(), "/zero-time") {
			delete(got, slog.TimeKey)
		}
		return got
	})
}

// asSlogtestWants turns an entry back into attributes. slogtest writes its
// groups in capitals and its attributes in small letters. The time stands for
// the one that journald puts on everything that arrives.
func asSlogtestWants(e entry) map[string]any {
	attributes := map[string]any{
		slog.TimeKey:    time.Now(),
		slog.LevelKey:   e.Priority,
		slog.MessageKey: strings.Fields(e.Message)[0],
	}
	for name, text := range e.Fields {
		parts := strings.Split(strings.TrimPrefix(name, "CFWALL_"), "_")
		group := attributes
		for _, g := range parts[:len(parts)-1] {
			if group[g] == nil {
				group[g] = map[string]any{}
			}
			group = group[g].(map[string]any)
		}
		group[strings.ToLower(parts[len(parts)-1])] = text
	}
	return attributes
}

func TestJournalEntries(t *testing.T) {
	at := time.Date(2026, 10, 2, 12, 0, 0, 5, time.UTC)
	tests := []struct {
		name string
		log  func(*slog.Logger)
		want entry
	}{
		{"message only", func(l *slog.Logger) { l.Info("ready") },
			entry{"ready", journal.PriInfo, map[string]string{}}},
		{"attributes", func(l *slog.Logger) { l.Warn("fetch failed", "class", "timeout", "failures", 3) },
			entry{"fetch failed class=timeout failures=3", journal.PriWarning, map[string]string{"CFWALL_CLASS": "timeout", "CFWALL_FAILURES": "3"}}},
		{"error", func(l *slog.Logger) { l.Error("applying", "tries", 2, "err", errors.New("no \"room\"\nleft")) },
			entry{"applying: no \"room\"\nleft tries=2", journal.PriErr, map[string]string{"CFWALL_TRIES": "2", "CFWALL_ERR": "no \"room\"\nleft"}}},
		{"values", func(l *slog.Logger) {
			l.Debug("x", "network", netip.MustParsePrefix("192.0.2.0/24"), "age", 90*time.Minute, "at", at, "none", "")
		}, entry{`x network=192.0.2.0/24 age=1h30m0s at=2026-10-02T12:00:00Z none=""`, journal.PriDebug, map[string]string{
			"CFWALL_NETWORK": "192.0.2.0/24", "CFWALL_AGE": "1h30m0s", "CFWALL_AT": "2026-10-02T12:00:00Z", "CFWALL_NONE": ""}}},
		{"groups", func(l *slog.Logger) {
			l.With("a", 1).WithGroup("fetch").With("b", 2).Info("x", slog.Group("tls", "c", 3), slog.Group("", "d", 4), slog.Group("empty"))
		}, entry{"x a=1 fetch.b=2 fetch.tls.c=3 fetch.d=4", journal.PriInfo, map[string]string{
			"CFWALL_A": "1", "CFWALL_FETCH_B": "2", "CFWALL_FETCH_TLS_C": "3", "CFWALL_FETCH_D": "4"}}},
		{"names", func(l *slog.Logger) { l.Info("x", "next-at", 1, "é ", 2, strings.Repeat("long", 20), 3) },
			entry{"x next-at=1 é =2 " + strings.Repeat("long", 20) + "=3", journal.PriInfo, map[string]string{
				"CFWALL_NEXT_AT": "1", "CFWALL___": "2", "CFWALL_" + strings.Repeat("LONG", 14) + "L": "3"}}},
		{"notice", func(l *slog.Logger) { l.Log(context.Background(), slog.LevelInfo+2, "held") },
			entry{"held", journal.PriNotice, map[string]string{}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var j journald
			tt.log(slog.New(j.handler()))
			if diff := cmp.Diff([]entry{tt.want}, j.entries); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJournalLevel(t *testing.T) {
	var j journald
	level := new(slog.LevelVar)
	h := j.handler()
	h.level = level
	l := slog.New(h)
	l.Debug("not yet")
	level.Set(slog.LevelDebug)
	l.Debug("now")
	if len(j.entries) != 1 || j.entries[0].Message != "now" {
		t.Errorf("got %v", j.entries)
	}
}

func TestJournalLoggersShareNothing(t *testing.T) {
	var j journald
	parent := slog.New(j.handler()).With("a", 1).With("b", 2).With("c", 3)
	first, second := parent.With("child", 1), parent.With("child", 2)
	first.Info("x", "own", 1)
	second.Info("x", "own", 2)
	if got := j.entries[0].Message; got != "x a=1 b=2 c=3 child=1 own=1" {
		t.Errorf("the first writes %q", got)
	}
	if got := j.entries[1].Message; got != "x a=1 b=2 c=3 child=2 own=2" {
		t.Errorf("the second writes %q", got)
	}
}

func TestJournalFallback(t *testing.T) {
	var stderr bytes.Buffer
	lost := func(string, journal.Priority, map[string]string) error { return errors.New("no journal") }
	slog.New(journalHandler{level: slog.LevelInfo, send: lost, fallback: &stderr, hand: now}).Error("applying", "err", "EPERM")
	if got := stderr.String(); got != "<3>applying err=EPERM\n" {
		t.Errorf("got %q", got)
	}
}

// now writes without a queue.
func now(write func()) { write() }
