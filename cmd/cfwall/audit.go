package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
	"github.com/cfwall/cfwall/firewall"
)

// auditLine lists who passes only because nothing is dropped, the latest first.
func auditLine(w daemon.WouldBe, now time.Time) string {
	var words []string
	for _, d := range w.Dropped {
		words = append(words, fmt.Sprintf("would have dropped %s %d from %s %s (%s)", d.Protocol, d.Port, d.Source, ago(d.Last, now), plural(int(d.Packets), "packet")))
	}
	words = append(theFirst(shownRejections, words), rejections("would have rejected", w.Rejected, now)...)
	if len(words) == 0 {
		return "nothing would have been dropped in the last hour"
	}
	return strings.Join(words, "\n")
}

// warnOfAudit says what a command that succeeds leaves open all the same.
func warnOfAudit(cmd *cobra.Command, audit bool) {
	if audit {
		say(cmd, "warning: audit = true: nothing is dropped, only counted; to end that set it to false, then: cfwall reload")
	}
}

// auditComment begins a file for nft that drops nothing.
func auditComment(r firewall.Ruleset) string {
	if !r.Audit() {
		return ""
	}
	return "# audit = true: NOTHING IS DROPPED. Counters and sets that begin with \"would_be_\" are of what passes all the same.\n"
}
