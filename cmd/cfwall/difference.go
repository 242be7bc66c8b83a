package main

import (
	"fmt"
	"strings"

	"github.com/cfwall/cfwall/daemon"
)

// configDiffText shows all of how a config file differs from the one in force.
func configDiffText(d *daemon.Difference) string {
	if d == nil {
		return ""
	}
	beginning := "differs from the config in force"
	if !d.Meaning {
		beginning = "means the same as the config in force, though it is written otherwise"
	}
	return fmt.Sprintf("%s (%s):\n%s", beginning, d, marked("  ", d.Lines))
}

// shownLines is how many lines of a difference the status shows.
const shownLines = 6

// configDiffLine shows the lines themselves, without what surrounds them.
func configDiffLine(d daemon.Difference) string {
	var lines []string
	for i, l := range d.Lines {
		changed := strings.HasPrefix(l, "+") || strings.HasPrefix(l, "-")
		if i >= 2 && changed { // the first two name the files
			lines = append(lines, l)
		}
	}
	return strings.Join(append([]string{"the file differs from the config in force:"}, theFirst(shownLines, lines)...), "\n")
}
