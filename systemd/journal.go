package systemd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/coreos/go-systemd/v22/journal"
)

// journalHandler writes journal entries. An attribute becomes a field of its
// own ("class" in the group "fetch" is CFWALL_FETCH_CLASS), for journalctl and
// collectors to select by, and is repeated at the end of MESSAGE, because that
// is all that journalctl shows by default. There an error follows the message as
// people write it, lines and all, and an event is left out: the message says in
// words what has happened. Journald adds the time.
type journalHandler struct {
	level slog.Leveler
	send  func(message string, priority journal.Priority, fields map[string]string) error
	// fallback takes what send cannot deliver.
	fallback io.Writer
	hand     func(write func()) // decides when that is done
	groups   string             // those that are open, each with a dot after it
	attrs    []attribute        // those of WithAttrs
}

// An attribute has the name "fetch.class", in which the groups are spelled out.
type attribute struct {
	name, text string
	value      any // an Event and an error are told in ways of their own
}

func (h journalHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	if name != "" {
		h.groups += name + "."
	}
	return h
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = slices.Clip(h.attrs) // two loggers made from one must not share what is appended
	for _, a := range attrs {
		h.attrs = appendAttr(h.attrs, h.groups, a)
	}
	return h
}

func (h journalHandler) Handle(_ context.Context, r slog.Record) error {
	attrs := slices.Clip(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		attrs = appendAttr(attrs, h.groups, a)
		return true
	})
	message, rest := r.Message, ""
	fields := make(map[string]string, len(attrs))
	for _, a := range attrs {
		fields[fieldName(a.name)] = a.text
		switch value := a.value.(type) {
		case Event:
			fields["MESSAGE_ID"] = events[value].id
		case error:
			message += ": " + a.text
		default:
			rest += " " + a.name + "=" + quoted(a.text)
		}
	}
	h.hand(func() {
		if err := h.send(message+rest, priority(r.Level), fields); err != nil {
			// The standard error leads to the journal as well, by another way.
			fmt.Fprintf(h.fallback, "<%d>%s\n", priority(r.Level), message+rest)
		}
	})
	return nil
}

// appendAttr adds an attribute, or those of a group.
func appendAttr(attrs []attribute, groups string, a slog.Attr) []attribute {
	value := a.Value.Resolve()
	switch {
	case a.Equal(slog.Attr{}): // slog.Handler: ignore it
	case value.Kind() == slog.KindGroup:
		if a.Key != "" {
			groups += a.Key + "."
		}
		for _, member := range value.Group() {
			attrs = appendAttr(attrs, groups, member)
		}
	case value.Kind() == slog.KindTime:
		attrs = append(attrs, attribute{groups + a.Key, value.Time().Format(time.RFC3339), nil})
	default:
		attrs = append(attrs, attribute{groups + a.Key, value.String(), value.Any()})
	}
	return attrs
}

// quoted puts quotes around a text that would not read as one word.
func quoted(text string) string {
	strange := func(r rune) bool { return r == ' ' || r == '"' || r == '=' || !unicode.IsPrint(r) }
	if text == "" || strings.ContainsFunc(text, strange) {
		return strconv.Quote(text)
	}
	return text
}

// fieldName makes a name that journald accepts: capital letters, digits and
// underscores, 64 at most (journal_field_valid in systemd's
// src/libsystemd/sd-journal/journal-file.c).
func fieldName(name string) string {
	const longest = 64
	field := "CFWALL_" + strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
	return field[:min(len(field), longest)]
}

// priority is the syslog priority of a level.
func priority(level slog.Level) journal.Priority {
	switch {
	case level >= slog.LevelError:
		return journal.PriErr
	case level >= slog.LevelWarn:
		return journal.PriWarning
	case level > slog.LevelInfo:
		return journal.PriNotice
	case level == slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
