package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/daemon"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/ipranges"
)

// statusText is one screen, the verdict first.
func statusText(w io.Writer, s daemon.Status, now time.Time) string {
	var f fields
	f.b.WriteString(strings.Join(append([]string{headline(w, s)}, circumstances(s, now)...), "   ") + "\n")
	f.add("web ports", "tcp %s  udp %s      %s", orNone(s.Guarded.TCP), orNone(s.Guarded.UDP), families(s.Table))
	if s.Tunnel != nil {
		tunnelLines(&f, *s.Tunnel, s.Counters)
	}
	f.add("ranges", "%s", rangesLine(s.Ranges, now))
	f.add("source", "%s", sourceLine(s.Ranges.Source, s.Ranges.Agreement))
	f.add("table", "%s", tableLine(s.Table, s.Daemon.Running))
	if s.Repairs.Count > 0 {
		f.add("repaired", "%s", repairsText(s.Repairs, now))
	}
	if s.Table.Present {
		f.add("traffic", "%s", trafficLine(s))
	}
	if s.WouldBe != nil {
		f.add("audit", "%s", auditLine(*s.WouldBe, now))
	}
	if len(s.Allowed) > 0 {
		f.add("allowed", "%s", allowedLine(s.Allowed, now))
	}
	if s.Inbound.Policy == "drop" {
		f.add("inbound", "%s", inboundLine(s.Inbound))
	}
	if s.Outbound.Policy == "drop" {
		f.add("outbound", "%s", outboundLine(s.Outbound, now))
	}
	if len(s.Open) > 0 {
		f.add("open", "%s: %s", strings.Join(s.Open, ", "), openBy(s))
	}
	if s.Difference != nil {
		f.add("config", "%s", configDiffLine(*s.Difference))
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
	if s.Audit {
		words = append([]string{"audit: nothing is dropped"}, words...)
	}
	switch {
	case s.Off != nil && s.Off.Until.IsZero():
		words = append(words, "off since "+ago(s.Off.Since, now))
	case s.Off != nil:
		words = append(words, fmt.Sprintf("off until %s (%s)", clock(s.Off.Until, now), in(s.Off.Until, now)))
	case s.Confirm != nil:
		words = append(words, "unconfirmed, goes back "+in(s.Confirm.Deadline, now))
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

func tableLine(t daemon.TableStatus, watched bool) string {
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
	return family + " cfwall, matches the policy (read from the kernel now)\n" + holdText(t.Ownership, watched)
}

// holdText says who may change the table.
func holdText(h firewall.Hold, watched bool) string {
	switch {
	case h == firewall.Owned:
		return "owned by the daemon: no other program can change or flush it"
	case h == firewall.Foreign:
		return "held by another process: only that can change it"
	case watched:
		return "any root program can change it; the daemon puts that right at once"
	}
	return "any root program can change it, and no daemon would put that right"
}

func repairsText(r daemon.Repairs, now time.Time) string {
	last := r.Last[0]
	return fmt.Sprintf("%s by other programs put right, the last %s: %s\n%s", plural(r.Count, "change"), ago(last.At, now), last.By, strings.Join(last.Changes[:min(len(last.Changes), shownChanges)], "\n"))
}

// shownChanges is how many changes of a repair are named.
const shownChanges = 3

func inboundLine(i daemon.InboundStatus) string {
	if len(i.Open) == 0 {
		return "drop, nothing is open"
	}
	return "drop, but " + strings.Join(i.Open, "; ")
}

func openBy(s daemon.Status) string {
	switch {
	case s.Audit:
		return "nothing is dropped, the world can reach them"
	case s.Inbound.Policy == "drop":
		return "listening, and open by the config"
	}
	return "not guarded, the world can reach them"
}

// tunnelLines says first whether anybody is connected.
func tunnelLines(f *fields, t daemon.TunnelStatus, counters map[string]daemon.Traffic) {
	sent := fmt.Sprintf("sent %s QUIC, %s HTTP/2 packets", quantity(counters["tunnel_udp"].Packets), quantity(counters["tunnel_tcp"].Packets))
	switch {
	case !t.Asked:
		f.add("tunnel", "not asked ([tunnel] ready = \"off\"); %s", sent)
	case t.Connections == 0:
		f.add("tunnel", "nobody is connected; %s", sent)
	default:
		f.add("tunnel", "up, %s to Cloudflare; %s", plural(t.Connections, "connection"), sent)
	}
	for _, i := range t.Instances {
		if i.Problem == "" {
			f.add("", "connector %s, %s", cmp.Or(i.Connector, "at "+i.Address), plural(i.Connections, "connection"))
		} else {
			f.add("", "%s", i.Problem)
		}
	}
	if text := flowsText(t.Flows); text != "" {
		f.add("", "%s", text)
	}
}

// flowsText sums up flows by who has them. Those that nobody answers are none
// of a tunnel.
func flowsText(flows []cloudflared.Flow) string {
	var owners []string
	remotes := map[string][]string{}
	for _, f := range flows {
		if !f.Answered {
			continue
		}
		owner := cmp.Or(f.Process, "a process that is not known")
		if f.PID != 0 {
			owner = fmt.Sprintf("%s (pid %d)", owner, f.PID)
		}
		if remotes[owner] == nil {
			owners = append(owners, owner)
		}
		remotes[owner] = append(remotes[owner], fmt.Sprintf("%s %s", f.Protocol, f.Remote))
	}
	var words []string
	for _, o := range owners {
		words = append(words, fmt.Sprintf("%s of %s to %s", plural(len(remotes[o]), "flow"), o, strings.Join(remotes[o], ", ")))
	}
	return strings.Join(words, "; ")
}

// shownRejections is how many destinations the status names.
const shownRejections = 4

func outboundLine(o daemon.OutboundStatus, now time.Time) string {
	words := []string{"drop, but the tunnel and what it needs"}
	if len(o.Allow) > 0 {
		words[0] += ", " + strings.Join(o.Allow, "; ")
	}
	return strings.Join(append(words, rejections("rejected", o.Rejected, now)...), "\n")
}

func rejections(verb string, all []daemon.Rejected, now time.Time) []string {
	var words []string
	for _, r := range all {
		words = append(words, fmt.Sprintf("%s %s %s %s (%s)", verb, r.Protocol, r.Destination, ago(r.Last, now), plural(int(r.Packets), "packet")))
	}
	return theFirst(shownRejections, words)
}

// theFirst names no more than some, and says how many there are besides.
func theFirst(n int, words []string) []string {
	if len(words) <= n {
		return words
	}
	return append(words[:n:n], fmt.Sprintf("and %d more", len(words)-n))
}

func trafficLine(s daemon.Status) string {
	words, prefix := "admitted %s packets, dropped %s (v4 %s, v6 %s)", ""
	if s.Audit {
		words, prefix = "admitted %s packets, let pass by audit %s (v4 %s, v6 %s)", firewall.WouldBe
	}
	var admitted uint64
	for name, c := range s.Counters {
		if strings.HasPrefix(name, "admitted_") {
			admitted += c.Packets
		}
	}
	dropped4 := s.Counters[prefix+"dropped4"].Packets + s.Counters[prefix+"dropped_inbound4"].Packets
	dropped6 := s.Counters[prefix+"dropped6"].Packets + s.Counters[prefix+"dropped_inbound6"].Packets
	return fmt.Sprintf(words, quantity(admitted), quantity(dropped4+dropped6), quantity(dropped4), quantity(dropped6))
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
