package systemd

import (
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/coreos/go-systemd/v22/journal"
)

// NewLogger returns a logger that writes lines of text to w. Where w is the
// standard error and systemd has connected that to the journal, it writes
// journal entries instead, with a field for every attribute.
func NewLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	return newLogger(w, level, func(write func()) { write() })
}

// newLogger leaves to hand when each line is written.
func newLogger(w io.Writer, level slog.Leveler, hand func(write func())) *slog.Logger {
	if isJournal(w) {
		return slog.New(journalHandler{level: level, send: journal.Send, fallback: w, hand: hand})
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: namedLevel}
	if !needsTime(w) {
		options.ReplaceAttr = withoutTime
	}
	return slog.New(slog.NewTextHandler(handing{w, hand}, options))
}

// isJournal reports whether w is the standard error, and systemd has connected
// that to the journal.
func isJournal(w io.Writer) bool {
	if w != io.Writer(os.Stderr) {
		return false
	}
	is, err := journal.StderrIsJournalStream()
	return err == nil && is // an error means that JOURNAL_STREAM is not what systemd writes
}

// handing is a writer of whole lines that leaves to hand when.
type handing struct {
	io.Writer
	hand func(write func())
}

func (h handing) Write(line []byte) (int, error) {
	kept := slices.Clone(line)
	h.hand(func() { _, _ = h.Writer.Write(kept) }) // who would hear of a log that cannot be written?
	return len(line), nil
}

// needsTime holds for terminals and files. Whoever reads from a pipe or a
// socket, such as the journal or another supervisor, adds the time itself.
func needsTime(w io.Writer) bool {
	file, isFile := w.(*os.File)
	if !isFile {
		return false
	}
	info, err := file.Stat()
	return err == nil && (info.Mode().IsRegular() || info.Mode()&os.ModeCharDevice != 0)
}

func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return namedLevel(groups, a)
}

// namedLevel writes the level of a notice as others are written.
func namedLevel(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.LevelKey && a.Value.Any() == levelNotice {
		a.Value = slog.StringValue("NOTICE")
	}
	return a
}
