package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/cfwall/cfwall/daemon"
)

// remarks are what the manual says of a command beyond its help.
type remarks struct {
	page     string // "cfwall-ranges-fetch"
	text     string // ends the description
	sections []section
	exits    []exit // besides those of every command, or in their place
	caveats  string
	seeAlso  string
}

// A section has a text, and perhaps lines to be copied and items.
type section struct {
	title, text, lines string
	items              []item
}

// An exit says what an exit code means.
type exit struct {
	code int
	text string
}

func remarksOn(page string) remarks {
	for _, r := range allRemarks {
		if r.page == page {
			return r
		}
	}
	return remarks{}
}

// exitsWith are those of every command, and those that one has of its own.
func exitsWith(own []exit) []exit {
	all := slices.Clone(own)
	for _, e := range []exit{
		{daemon.ExitOK, "What was asked for was done."},
		{daemon.ExitError, "It failed: the error says why, and the hint what to do about it."},
		{daemon.ExitUsage, "The command line or the configuration is wrong."},
	} {
		if !slices.ContainsFunc(own, func(o exit) bool { return o.code == e.code }) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b exit) int { return cmp.Compare(a.code, b.code) })
	return all
}

// A knownFile is what commands read or write.
type knownFile struct{ path, text, pages string }

// filesOf are those that a page names; cfwall(8) names all.
func filesOf(page string) []knownFile {
	return slices.DeleteFunc(slices.Clone(knownFiles), func(f knownFile) bool {
		return page != "cfwall" && !slices.Contains(strings.Fields(f.pages), strings.TrimPrefix(page, "cfwall-"))
	})
}

var knownFiles = []knownFile{
	{"/etc/cfwall/config.toml", "The configuration. It may be empty, which means the default. Missing, it counts as empty only where cfwall has never worked with one.",
		"apply check config install plan print reload run"},
	{"/var/lib/cfwall/", "What must survive a reboot. It belongs to root or to the user that the daemon runs as, and is not used where others may write to it.",
		"run"},
	{"/var/lib/cfwall/last-config.toml", "The last configuration that worked. It counts where the present one is broken or gone as the daemon starts.",
		"apply config confirm reload run"},
	{"/var/lib/cfwall/ranges/", "Cloudflare's networks: the list in force (current), the one before it (previous), and what is held, pending and planned (book).",
		"ranges ranges-accept ranges-diff ranges-fetch ranges-rollback run"},
	{"/var/lib/cfwall/allow.json", "Who is let in for a while, and until when.", "allow run"},
	{"/var/lib/cfwall/off.json", "Whether cfwall is switched off, and until when.", "off on run"},
	{"/var/lib/cfwall/forced.json", "What was closed by force, so that it stays closed after a restart.", "apply run"},
	{"/var/lib/cfwall/confirm.json", "A configuration that waits to be confirmed, or was not, and what was in force before it.", "apply confirm run"},
	{"/run/cfwall/control.sock", "The socket by which commands ask the daemon. Root may do everything, members of the group cfwall may look.", "run status"},
	{"/run/cfwall/lock", "Held by the one process that may change the rules.", "run"},
}

var signals = section{title: "SIGNALS", text: "The daemon, cfwall run, heeds these:", items: []item{
	{"SIGHUP", "It reads its configuration again, as by cfwall reload, which also says how that went."},
	{"SIGTERM, SIGINT", "It ends, and the rules stay in force. A configuration that waits for cfwall confirm is gone back from first. A second signal ends it at once."},
	{"SIGKILL", "It ends at once, and the rules stay in force. The next start takes them over, and goes on with what waits for cfwall confirm."},
}}

const overview = `
It keeps one table of nftables, inet cfwall, as the configuration wants it, and
touches no other. The table only takes away: what it lets through is still up to
ufw, firewalld, Docker and whoever else filters here. Ports that containers
publish are guarded like those of the host, for IPv4 and IPv6.

In mode cloudflare, the default, the guarded ports (TCP 80 and 443, UDP 443, or
others) admit Cloudflare's published networks. That list is built in, so that a
start needs no network, and fetched anew every six hours. In mode tunnel they
admit nobody: cloudflared connects outwards. In both modes [allow] lets others
in, and [inbound] and [outbound] can close the rest of the host as well.

Nothing opens by itself what is closed. The rules stay in force when the daemon
ends, crashes, is killed or upgraded, when its configuration is broken, and when
Cloudflare's list cannot be had or is not to be believed. A configuration that
would close a way in by SSH is refused unless it is forced.

To change anything takes root. Members of the group cfwall may ask a daemon that
runs. Data goes to the standard output, and errors, warnings and hints to the
standard error. Commands that print data take -o json.
`

var allRemarks = []remarks{
	{page: "cfwall", text: overview, seeAlso: "cfwall-config(5) journalctl(1) nft(8) systemctl(1)",
		sections: []section{
			{title: "WHEN EVERYTHING IS WRONG",
				text:  "Where cfwall off does not help, end the daemon and delete its table. Every port is then as open as the other tables have it, until the daemon starts again:",
				lines: "systemctl stop cfwall\nnft delete table inet cfwall"},
			signals,
			{title: "ENVIRONMENT", text: "These variables count:", items: []item{
				{"NO_COLOR", "Where it is not empty, no colours are printed. They are only printed on a terminal, and not where TERM is dumb."},
				{"SSL_CERT_FILE, SSL_CERT_DIR", "Certificates of authorities, in place of those of the system, by which to check the servers that the list comes from. They count for the process that fetches the list: the daemon, where one runs."},
				{"SSH_CONNECTION", "Set by sshd: one of the ways in which cfwall finds the session that a command came by, so as not to cut it."},
				{"NOTIFY_SOCKET, JOURNAL_STREAM", "Set by systemd: where the daemon says how it is, and whether the standard error is the journal."},
			}},
		},
		caveats: `Addresses prove no identity: every customer of Cloudflare can come from its
networks. Mode tunnel, a validated token of Cloudflare Access, or Authenticated
Origin Pulls with a certificate of your own close that gap.

On a host without IPv6 the table is ip cfwall. Since Linux 6.9 it belongs to the
daemon: no other program can change it while that runs. On older kernels what
others change is put right within milliseconds.`,
		exits: []exit{
			{daemon.ExitUsage, "The command line or the configuration is wrong, or the configuration is refused because of SSH or of the tunnel."},
			{daemon.ExitDegraded, "The host is protected, but something needs care."},
			{daemon.ExitUnprotected, "The host is not protected, or cfwall is switched off."},
			{daemon.ExitReverted, "A configuration waits to be confirmed, or was not, and the one before it is in force again."},
		}},
	{page: "cfwall-status", seeAlso: "cfwall-config(5)", sections: []section{
		{title: "VERDICT", text: "The first line says it:", items: []item{
			{"PROTECTED", "The table in the kernel is what the configuration wants."},
			{"DEGRADED", "So it is, but something needs care: the tunnel is down, for example, or the configuration file has errors and another one is in force."},
			{"NOT PROTECTED", "The table is missing or is not what it should be, cfwall is switched off, or audit = true lets everything pass."},
		}},
		{title: "OUTPUT", text: "Below the verdict there are these lines, each where there is something to say:", items: []item{
			{"web ports", "The ports that are guarded."},
			{"tunnel", "In mode tunnel: how many connections cloudflared has to Cloudflare, by which processes, and what has been sent."},
			{"ranges, source", "How many networks of Cloudflare's are in force, how fresh the list is, and where it comes from."},
			{"table", "Whether the table in the kernel matches the configuration, and who may change it."},
			{"repaired", "What other programs have changed, and was put right."},
			{"traffic", "Packets that the table has admitted and dropped since it was made."},
			{"audit", "With audit = true: who would have been dropped or refused."},
			{"allowed", "Who else may reach the guarded ports."},
			{"inbound, outbound", "Where their policy is drop: what may come in and leave all the same, and what was refused last."},
			{"open", "Ports on which something listens that the world can reach."},
			{"config", "Lines by which the file differs from the configuration in force."},
			{"!", "A problem, by a name that does not change between versions, and its cure. One that does not change the verdict is a warning."},
		}},
		{title: "JSON", text: "With -o json all of this is one object. Its field schema is " + daemon.StatusSchema + " until a change that breaks readers. Its field verdict is protected, degraded or unprotected."},
	}, exits: []exit{
		{daemon.ExitOK, "The host is protected. With --watch: somebody has ended it."},
		{daemon.ExitUsage, "The command line is wrong."},
		{daemon.ExitDegraded, "The host is protected, but something needs care."},
		{daemon.ExitUnprotected, "The host is not protected."},
	}},
	{page: "cfwall-why", sections: []section{
		{title: "OUTPUT", text: "The verdict, then why, and the entry and the rule that decide:", items: []item{
			{"ADMITTED", "The packet passes cfwall. Other tables may still drop it."},
			{"DROPPED", "The packet is dropped, and nothing is answered."},
			{"NOT GUARDED", "cfwall does not look at this port, or has no rules in force."},
			{"REFUSED", "With --to: the program is told at once that it may not send this."},
			{"NOT FILTERED", "With --to: [outbound] filters nothing."},
			{"WOULD BE DROPPED, WOULD BE REFUSED", "It passes only because of audit = true."},
			{"UNKNOWN", "The table holds rules that this version does not know."},
		}},
	}, exits: []exit{{daemon.ExitOK, "There is an answer, whatever it is."}}},
	{page: "cfwall-install", seeAlso: "cfwall-config(5) cfwall-uninstall(8)"},
	{page: "cfwall-check", seeAlso: "cfwall-config(5)", exits: []exit{
		{daemon.ExitOK, "The file can come into force. There may be warnings."},
		{daemon.ExitUsage, "The file has errors, or apply would refuse it because of SSH or of the tunnel."},
	}},
	{page: "cfwall-plan", sections: []section{
		{title: "OUTPUT", text: `First what the change means, for this host and for those who reach it, with the
live connections that it ends. Then each change: + is made, - goes, ~ is changed.
Then the same as commands of nft, in the transactions in which cfwall does it.`},
	}, exits: []exit{
		{daemon.ExitOK, "There is a plan. With --detailed-exitcode: there is nothing to change."},
		{daemon.ExitUsage, "The command line or the configuration is wrong. With --detailed-exitcode also: there is something to change."},
	}},
	{page: "cfwall-print", seeAlso: "cfwall-config(5) nft(8)"},
	{page: "cfwall-apply", exits: []exit{
		{daemon.ExitOK, "The configuration is in force. With --confirm: it was before, or it was confirmed on a terminal."},
		{daemon.ExitUsage, "The command line or the configuration is wrong, or it was refused because of SSH or of the tunnel. The policy in force stays."},
		{daemon.ExitUnprotected, "cfwall is switched off, so that nothing is closed; or neither this configuration nor the one before it could be put in force."},
		{daemon.ExitReverted, "The configuration waits to be confirmed, or was not, and the one before it is in force again; or another one waits."},
	}},
	{page: "cfwall-confirm", exits: []exit{
		{daemon.ExitError, "There is nothing to confirm, or this session is older than the change."},
		{daemon.ExitUnprotected, "cfwall is switched off, or the configuration is not in force."},
		{daemon.ExitReverted, "It is too late: the configuration before is in force again."},
	}},
	{page: "cfwall-reload", exits: []exit{
		{daemon.ExitOK, "The configuration is in force."},
		{daemon.ExitError, "No daemon runs, or it could not put the configuration in force."},
		{daemon.ExitUsage, "The configuration is wrong, or it was refused because of SSH or of the tunnel. The policy in force stays."},
		{daemon.ExitUnprotected, "cfwall is switched off, so that nothing is closed."},
		{daemon.ExitReverted, "A configuration waits to be confirmed: confirm it, or wait."},
	}},
	{page: "cfwall-run", seeAlso: "cfwall-config(5) journalctl(1) systemctl(1)", text: `
It starts with what it finds. Rules that are in force already, of a daemon before
or of cfwall apply, are taken over without a gap. Where the configuration is broken or gone the
last one that worked counts, and where there is none the default. A configuration
that would close a port where SSH listens leaves that port open, and says so.

It needs root, or CAP_NET_ADMIN and directories of its own. Only one can run: a
second one is told who holds the table or the lock, and ends.

It writes its log to the standard error or, under systemd, to the journal.
`, sections: []section{signals}, exits: []exit{
		{daemon.ExitOK, "A signal has ended it."},
		{daemon.ExitError, "It could not begin: another one runs, or the kernel or its directories cannot be used."},
		{daemon.ExitUsage, "The command line is wrong."},
		{daemon.ExitUnprotected, "It has no right to change the firewall, or the kernel has no nf_tables: no other start mends that."},
	}},
	{page: "cfwall-ranges", sections: []section{
		{title: "OUTPUT", text: "How many networks are in force, then these lines, then the networks:", items: []item{
			{"source", "Cloudflare's API, its text pages, or the list that is built in, and whether API and pages agree."},
			{"etag", "What names this version of the list at Cloudflare."},
			{"fetched, checked, next", "When it was fetched, when it was last confirmed, and when it will be asked for again."},
			{"latest", "What came of the latest fetch: see cfwall-ranges-fetch(8)."},
			{"held", "A list that waits for cfwall ranges accept, and why it does."},
			{"pending", "Networks that the latest answer lacked. They go if an answer an hour later or more lacks them too."},
		}},
	}},
	{page: "cfwall-ranges-fetch", sections: []section{
		{title: "OUTPUT", text: "A word that does not change between versions, and what it means here:", items: []item{
			{"unchanged", "The list in force is confirmed."},
			{"added, removed", "The list in force has changed."},
			{"removal-pending", "Networks are missing for the first time. They stay."},
			{"held, disagree, text-alone", "A human has to decide: too much would change, or the API and the text pages do not say the same, or only the text pages say that networks are gone. The list in force stays."},
			{"anything else", "There was no answer that can be believed: dns, timeout, tls, http-status, html, bad-json and so on say why. The list in force stays."},
		}},
	}, exits: []exit{
		{daemon.ExitOK, "There is an answer that can be believed, though it may be held."},
		{daemon.ExitError, "There is none, and the list in force stays."},
	}},
}
