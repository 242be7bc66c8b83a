package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// width is what every terminal has.
const width = 80

// fields prints names and values below one another: two columns, the second
// of which continues below itself where a value is long.
type fields struct{ b strings.Builder }

// valueColumn is where the values begin.
const valueColumn = 14

func (f *fields) add(name, format string, args ...any) {
	f.b.WriteString(hang(fmt.Sprintf("  %-*s  ", valueColumn-4, name), fmt.Sprintf(format, args...)))
}

// hang prints text behind a beginning, and what does not fit into the width
// below itself. A word is never broken.
func hang(beginning, text string) string {
	var b strings.Builder
	below := strings.Repeat(" ", utf8.RuneCountInString(beginning))
	for line := range strings.Lines(text) {
		b.WriteString(wrap(beginning, below, strings.TrimSuffix(line, "\n")))
		beginning = below
	}
	return b.String()
}

func wrap(beginning, below, text string) string {
	var b strings.Builder
	words := strings.Split(text, " ")
	line := beginning + words[0]
	for _, word := range words[1:] {
		if utf8.RuneCountInString(line+" "+word) > width {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = below + word
			continue
		}
		line += " " + word
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
	return b.String()
}

// ago says how long something is past, in a fitting unit: "58 min ago".
func ago(t, now time.Time) string {
	n, unit := units(now.Sub(t))
	return fmt.Sprintf("%d %s ago", int(n), unit)
}

// in says how far something is ahead: "in 58 min".
func in(t, now time.Time) string {
	n, unit := units(t.Sub(now))
	return fmt.Sprintf("in %.0f %s", n, unit)
}

func units(d time.Duration) (n float64, unit string) {
	d = max(d, 0)
	switch {
	case d < 90*time.Second:
		return d.Seconds(), "s"
	case d < 90*time.Minute:
		return d.Minutes(), "min"
	case d < 48*time.Hour:
		return d.Hours(), "h"
	}
	return d.Hours() / 24, "days"
}

// clock prints a time of today without its day.
func clock(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04")
}

// quantity prints 41,204 and 1.9 M.
func quantity(n uint64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f G", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f M", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%d,%03d", n/1e3, n%1e3)
	}
	return strconv.FormatUint(n, 10)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// orNone stands in for a list that is empty.
func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// marked puts a mark before every line.
func marked(mark string, lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(mark + l + "\n")
	}
	return b.String()
}

// changesText prints the changes of a plan, each of which begins with a sign.
func changesText(changes []string) string {
	var b strings.Builder
	for _, c := range changes {
		sign, what, _ := strings.Cut(c, " ")
		b.WriteString(hang("  "+sign+" ", what))
	}
	return b.String()
}
