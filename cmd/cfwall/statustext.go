package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/cfwall/cfwall/daemon"
	"github.com/cfwall/cfwall/ipranges"
)

// statusText is one screen, the verdict first.
func statusText(w io.Writer, s daemon.Status, now time.Time) string {
	var f fields
	f.b.WriteString(strings.Join(append([]string{headline(w, s)}, circumstances(s, now)...), "   ") + "\n")
	f.add("web ports", "tcp %s  udp %s      %s", orNone(s.Guarded.TCP), orNone(s.Guarded.UDP), families(s.Table))
	f.add("ranges", "%s", rangesLine(s.Ranges, now))
	f.add("source", "%s", sourceLine(s.Ranges.Source, s.Ranges.Agreement))
	f.add("table", "%s", tableLine(s.Table))
	if s.Table.Present {
		f.add("traffic", "%s", trafficLine(s.Counters))
	}
	if len(s.Allowed) > 0 {
		f.add("allowed", "%s", allowedLine(s.Allowed, now))
	}
	if len(s.Open) > 0 {
		f.add("open", "%s: not guarded, the world can reach them", strings.Join(s.Open, ", "))
	}
	return f.b.String() + problemsText(s.Problems)
}

func problemsText(problems []daemon.Problem) string {
	var b strings.Builder
	longest := valueColumn - len("  !   ")
	for _, p := range problems {
		longest = max(longest, len(p.Code))
	}
	for _, p := range problems {
		b.WriteString(hang(fmt.Sprintf("  ! %-*s  ", longest, p.Code), p.Text))
		b.WriteString(hang(fmt.Sprintf("    %-*s  ", longest, ""), "cure: "+p.Cure))
	}
	return b.String()
}

func circumstances(s daemon.Status, now time.Time) []string {
	words := []string{"mode " + string(s.Mode)}
	switch {
	case s.Off != nil && s.Off.Until.IsZero():
		words = append(words, "off since "+ago(s.Off.Since, now))
	case s.Off != nil:
		words = append(words, fmt.Sprintf("off until %s (%s)", clock(s.Off.Until, now), in(s.Off.Until, now)))
	case !s.Since.IsZero():
		words = append(words, "since "+ago(s.Since, now))
	}
	if host, err := os.Hostname(); err == nil {
		words = append(words, "host "+host)
	}
	return words
}

func families(t daemon.TableStatus) string {
	if t.IPv6 {
		return "IPv4 IPv6"
	}
	return "IPv4 (this host has no IPv6)"
}

func rangesLine(r daemon.RangesStatus, now time.Time) string {
	words := []string{fmt.Sprintf("%d IPv4 + %d IPv6", r.IPv4, r.IPv6)}
	if r.ETag != "" {
		words = append(words, "etag "+short(r.ETag))
	}
	checked := "never checked"
	if !r.CheckedAt.IsZero() {
		checked = "checked " + ago(r.CheckedAt, now)
	}
	if !r.NextAt.IsZero() {
		checked += ", next " + in(r.NextAt, now)
	}
	return strings.Join(append(words, checked), "   ")
}

// short is enough of a digest for people to compare.
func short(digest string) string {
	if len(digest) <= 12 {
		return digest
	}
	return digest[:4] + "…" + digest[len(digest)-4:]
}

func sourceLine(source, agreement string) string {
	switch agreement {
	case ipranges.Agree:
		return sourceText(source) + ", text pages agree"
	case ipranges.Disagree:
		return sourceText(source) + ", text pages differ"
	}
	return sourceText(source)
}

func sourceText(source string) string {
	switch source {
	case ipranges.FromAPI:
		return "Cloudflare's API"
	case ipranges.FromText:
		return "Cloudflare's text pages"
	}
	return "built into cfwall"
}

func tableLine(t daemon.TableStatus) string {
	family := "inet"
	if !t.IPv6 {
		family = "ip"
	}
	switch {
	case !t.Present:
		return "there is none (read from the kernel now)"
	case !t.Matches:
		return family + " cfwall, DIFFERS from the policy (read from the kernel now)"
	}
	return family + " cfwall, matches the policy (read from the kernel now)"
}

func trafficLine(counters map[string]daemon.Traffic) string {
	var admitted, dropped uint64
	for name, c := range counters {
		if strings.HasPrefix(name, "admitted_") {
			admitted += c.Packets
		}
		if strings.HasPrefix(name, "dropped") {
			dropped += c.Packets
		}
	}
	return fmt.Sprintf("admitted %s packets, dropped %s (v4 %s, v6 %s)", quantity(admitted), quantity(dropped),
		quantity(counters["dropped4"].Packets), quantity(counters["dropped6"].Packets))
}

func allowedLine(all []daemon.Allowance, now time.Time) string {
	var words []string
	for _, a := range all {
		who := a.Who
		if !a.Until.IsZero() {
			who += fmt.Sprintf(" until %s (%s)", clock(a.Until, now), in(a.Until, now))
		}
		words = append(words, who)
	}
	return strings.Join(words, "; ")
}
