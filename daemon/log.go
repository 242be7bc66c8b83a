package daemon

import (
	"fmt"
	"slices"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/ipranges"
	"github.com/cfwall/cfwall/systemd"
)

// announce tells systemd and the log in one line how things are, when that has
// changed. That a problem is an hour older is no news for the log.
func (d *Daemon) announce() {
	event, line, news := d.line()
	if line != d.announced {
		d.announced = line
		d.opts.Notify.Status(line)
	}
	if news != d.logged {
		d.logged = news
		event.Log(d.opts.Log, line)
	}
}

// line says how things are: the text, and what of it is news when it changes.
func (d *Daemon) line() (event systemd.Event, text, news string) {
	e := d.engine
	switch {
	case e.state.isOff(e.clock()):
		text = "OFF: every port is open, until " + untilText(e.state.off.at(e.clock()))
		return systemd.Opened, text, text
	case e.lastErr != nil:
		text = "NOT PROTECTED: " + e.lastErr.Error()
		return systemd.Unprotected, text, text
	}
	event, beginning, rest := systemd.Protected, "protected: ", describe(e.config, e.book)
	news = rest
	problems := e.ownProblems(e.wallClock())
	if i := slices.IndexFunc(problems, func(p Problem) bool { return p.Severity == Degraded }); i >= 0 {
		event, beginning, rest, news = systemd.Degraded, "protected, but ", problems[i].Text, problems[i].Code
	}
	if e.config.Policy.Audit {
		event, beginning = systemd.Audit, "AUDIT: nothing is dropped; "
	}
	return event, beginning + rest, beginning + news
}

// describe names the policy in one line.
func describe(c config.Config, b ipranges.Book) string {
	text := fmt.Sprintf("mode %s, tcp %s, udp %s", c.Policy.Mode, orNone(firewall.JoinPorts(c.Policy.TCP)), orNone(firewall.JoinPorts(c.Policy.UDP)))
	if c.Policy.Mode == firewall.ModeCloudflare {
		text += fmt.Sprintf(", %d IPv4 and %d IPv6 networks of Cloudflare", len(b.Current.List.V4()), len(b.Current.List.V6()))
	}
	if c.Policy.Inbound.Drop {
		text += ", inbound drop"
	}
	if c.Policy.Outbound.Drop {
		text += ", outbound drop"
	}
	return text
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// logOutcome says what came of a fetch, or of a command about the list: the book
// has just reported it.
func (e *Engine) logOutcome(o ipranges.Outcome) {
	e.tally.fetches[string(o.Class)]++
	text, class := "the list of Cloudflare's networks: "+o.Text, string(o.Class)
	if o.Added.Len()+o.Removed.Len() > 0 {
		systemd.ListChanged.Log(e.log, text, "class", class, "added", o.Added.Len(), "removed", o.Removed.Len())
		return
	}
	switch o.Class {
	case ipranges.ClassUnchanged:
		e.log.Debug(text, "class", class)
	case ipranges.ClassAccepted, ipranges.ClassRemovalPending, ipranges.ClassRolledBack: // a human has undone it before
		e.log.Info(text, "class", class)
	case ipranges.ClassHeld, ipranges.ClassDisagree, ipranges.ClassTextAlone:
		e.logHeld(text, class)
	default:
		e.logFailed("the list of Cloudflare's networks could not be fetched: "+o.Text, class)
	}
}

// logHeld leaves out what is in force already, and not waited for: that the text
// pages differ from it.
func (e *Engine) logHeld(text, class string) {
	if e.book.Held == nil {
		e.log.Info(text, "class", class)
		return
	}
	systemd.ListHeld.Log(e.log, text, "class", class)
}

func (e *Engine) logFailed(text, class string) {
	event := systemd.FetchFailed
	if _, freshness := e.book.Freshness(e.wallClock()); freshness != "fresh" {
		event = systemd.ListStale
	}
	event.Log(e.log, text, "class", class)
}

// A recurrent error may come back with each pass, and the log tells of it once.
type recurrent string

// isNew reports whether an error is another than the last one.
func (r *recurrent) isNew(err error) bool {
	before := *r
	*r = recurrent(fmt.Sprint(err))
	return err != nil && *r != before
}
