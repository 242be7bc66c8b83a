package main

import (
	"fmt"
	"strings"

	"github.com/cfwall/cfwall/internal/lab"
)

// table shows the results, which come service by service for each visitor.
func table(visitors []visitor, before, after []lab.Result) string {
	var b strings.Builder
	row := func(name, from string, cells []string) {
		line := []string{fmt.Sprintf("%-16s %-17s", name, from)}
		for _, c := range cells {
			line = append(line, fmt.Sprintf("%-10s", c))
		}
		b.WriteString(strings.TrimRight(strings.Join(line, " "), " ") + "\n")
	}
	var names, notes []string
	for _, s := range services {
		names, notes = append(names, s.name), append(notes, s.note)
	}
	row("", "", names)
	row("who", "from", notes)
	for i, v := range visitors {
		var cells []string
		for j := range services {
			n := i*len(services) + j
			cells = append(cells, mark(before[n])+" → "+mark(after[n]))
		}
		row(v.name, v.from.String(), cells)
	}
	return b.String()
}

func mark(r lab.Result) string {
	switch {
	case r.Err == nil:
		return "in"
	case r.Admitted():
		return "?" // something came back, but no echo
	default:
		return "-"
	}
}
