package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is one thing that is wrong with a configuration file.
type Error struct {
	File string
	// Line and Column count from 1, the column in characters. They are 0
	// where the file as a whole is wrong.
	Line, Column int
	// Excerpt is the line, or where that is very long, what surrounds the
	// column.
	Excerpt string
	// Message says what is wrong.
	Message string
	// Suggestion says what to write instead. It may be empty.
	Suggestion string

	mark string // goes below Excerpt: spaces, then ^^^
}

// Error prints the place and the message, the line, and a mark below it:
//
//	/etc/cfwall/config.toml:4:1: unknown key "web.tpc"
//	   4 | tpc = [80]
//	     | ^^^ did you mean "tcp"?
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	number := fmt.Sprintf("%4d", e.Line)
	below := strings.TrimRight(e.mark+" "+e.Suggestion, " ")
	return fmt.Sprintf("%s:%d:%d: %s\n%s | %s\n%*s | %s",
		e.File, e.Line, e.Column, e.Message, number, e.Excerpt, len(number), "", below)
}

// Errors is everything that is wrong with a configuration file, in its order.
type Errors []*Error

// maxErrors bounds Errors: a file with more is something else altogether.
const maxErrors = 50

// Error prints one error after the other.
func (e Errors) Error() string {
	var printed []string
	for _, err := range e {
		printed = append(printed, err.Error())
	}
	if len(e) == maxErrors {
		printed = append(printed, "there may be more errors: these are the first 50")
	}
	return strings.Join(printed, "\n")
}

// Unwrap lets errors.As find the first Error.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i := range e {
		errs[i] = e[i]
	}
	return errs
}

// A problem is an Error before its place is known.
type problem struct{ message, suggestion string }

func (p problem) Error() string { return p.message }

// fail reports that a part of the file is wrong.
func (d *document) fail(at span, err error) {
	if len(d.errs) == maxErrors {
		return
	}
	before, part, after := d.around(at)
	e := &Error{
		File:    d.name,
		Line:    1 + bytes.Count(d.text[:at.start], []byte("\n")),
		Column:  1 + utf8.RuneCount(before),
		Message: Printable(err.Error()),
	}
	left, marked, right := clipLeft(before), clip(part), clip(after)
	e.Excerpt = left + marked + right
	e.mark = strings.Map(blank, left) + strings.Repeat("^", max(utf8.RuneCountInString(marked), 1))
	if p, ok := errors.AsType[problem](err); ok {
		e.Suggestion = p.suggestion
	}
	d.errs = append(d.errs, e)
}

// around splits the line in which a part of the file begins into what stands
// before the part, the part itself as far as that line goes, and the rest.
func (d *document) around(at span) (before, part, after []byte) {
	start := bytes.LastIndexByte(d.text[:at.start], '\n') + 1
	line, _, _ := bytes.Cut(d.text[start:], []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	from := min(at.start-start, len(line))
	to := min(at.end-start, len(line))
	return line[:from], line[from:to], line[to:]
}

// maxPart is how many characters of a part of a line are shown.
const maxPart = 60

func clip(b []byte) string {
	s := []rune(Printable(string(b[:min(len(b), maxPart*utf8.UTFMax)])))
	if len(s) > maxPart {
		return string(s[:maxPart-1]) + "…"
	}
	return string(s)
}

func clipLeft(b []byte) string {
	s := []rune(Printable(string(b[max(len(b)-maxPart*utf8.UTFMax, 0):])))
	if len(s) > maxPart {
		return "…" + string(s[len(s)-maxPart+1:])
	}
	return string(s)
}

// Printable keeps a file from sending control characters to the terminal.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, s)
}

func blank(r rune) rune {
	if r == '\t' {
		return r // as wide as the one above it
	}
	return ' '
}

// sorted returns the errors in the order of the file.
func (d *document) sorted() Errors {
	slices.SortStableFunc(d.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return d.errs
}

// meant asks whether a word was meant. Nobody is asked about no word.
func meant(word string) string {
	if word == "" {
		return ""
	}
	return "did you mean " + strconv.Quote(word) + "?"
}

// closest returns the known word that is spelled most like another one, or ""
// where none comes near.
func closest(word string, known []string) string {
	best, nearest := "", max(len(word)/3, 1)+1
	for _, k := range known {
		if len(word)-len(k) >= nearest {
			continue // too long to come near, perhaps much too long to try
		}
		if d := distance(strings.ToLower(word), k); d < nearest {
			best, nearest = k, d
		}
	}
	return best
}

// distance counts the letters that must be changed, added, left out or swapped
// with their neighbour to make one word of the other.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
		for j := 1; j <= len(b); j++ {
			if i == 0 {
				rows[i][j] = j
				continue
			}
			changed := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				changed++
			}
			rows[i][j] = min(changed, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
