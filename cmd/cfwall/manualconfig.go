package main

import (
	"fmt"
	"regexp"
	"strings"
)

// A configKey is what the reference config says of a key in the lines above it.
type configKey struct{ table, name, about, standard, example string }

// referenceKeys reads the reference config line by line.
func referenceKeys(reference string) ([]configKey, error) {
	var keys []configKey
	table, comment := "", ""
	for line := range strings.Lines(reference) {
		line = strings.TrimSuffix(line, "\n")
		if words, isComment := strings.CutPrefix(line, "#"); isComment {
			comment += strings.TrimPrefix(words, " ") + "\n"
			continue
		}
		if name, _, isKey := strings.Cut(line, " = "); isKey {
			key, isWhole := keyFrom(comment)
			if !isWhole {
				return nil, fmt.Errorf("reading the reference config: no default and example above %q", line)
			}
			key.table, key.name = table, name
			keys = append(keys, key)
		} else if line != "" {
			table = line
		}
		comment = ""
	}
	return keys, nil
}

// keyFrom takes the comment above a key apart, which ends with its default and an
// example.
func keyFrom(comment string) (key configKey, isWhole bool) {
	about, rest, hasDefault := strings.Cut(comment, "\nDefault: ")
	standard, example, hasExample := strings.Cut(strings.Join(strings.Fields(rest), " "), ". Example: ")
	return configKey{about: about, standard: standard, example: strings.TrimSuffix(example, ".")}, hasDefault && hasExample
}

// configPage explains the config file: what it may look like, then each key.
func configPage(reference string, strong *regexp.Regexp) (string, error) {
	keys, err := referenceKeys(reference)
	if err != nil {
		return "", err
	}
	p := newPage(strong, "cfwall-config", "5", "the configuration file of cfwall")
	p.section("EXAMPLES")
	for _, e := range configExamples {
		p.text(e.text)
		p.verbatim(e.lines)
		p.line(".PP")
	}
	p.text(configSteps.text)
	p.verbatim(configSteps.lines)
	p.section("SYNOPSIS")
	p.line("%s", italic("/etc/cfwall/config.toml"))
	p.section("DESCRIPTION")
	p.text(configText)
	p.keys(keys)
	p.section("FILES")
	for _, f := range filesOf("cfwall-config") {
		p.item(italic(f.path), f.text)
	}
	p.references(strings.Fields("cfwall(8) cfwall-apply(8) cfwall-check(8) cfwall-plan(8) cfwall-print(8) cfwall-reload(8)"))
	return p.b.String(), nil
}

func (p *page) keys(keys []configKey) {
	p.section("KEYS")
	p.subsection("At the top, before any table")
	table := ""
	for _, k := range keys {
		if k.table != table {
			p.subsection(k.table)
			table = k.table
		}
		p.item(bold(k.name), k.about)
		p.line(".RS\n.PP\nDefault: %s\n.br\nExample: %s\n.RE", escape(k.standard), bold(k.name+" = "+k.example))
	}
}

const configText = `
The file is written in TOML. Every key may be left out, and so may the file: what
is not set has its default. What cfwall does not know, be it a key, a table or a
value, is an error, and cfwall check says in which line.

A file that was changed comes into force by cfwall reload or cfwall apply, or as
the daemon starts. cfwall plan says before what would change, and cfwall apply
--confirm goes back by itself unless somebody who has logged in anew confirms it.
A file that has errors, or that would close a way in by SSH, is refused, and the
policy in force stays. A daemon that starts takes the last file that worked in
place of one that has errors, and leaves open a port of SSH that the file closes.

cfwall print --reference-config prints a file that holds every key with its
default and the explanations below.
`

// configExamples begin with the shortest that does something.
var configExamples = []section{
	{text: "Guard one more port, and let an office and a VPN reach the guarded ports as well:", lines: `[web]
tcp = [80, 443, 8443]

[allow]
from = ["192.0.2.0/24", "2001:db8:1::/48"]
interfaces = ["wg*"]
`},
	{text: `With Cloudflare Tunnel, close everything else: nobody comes in but one network by
SSH, and nothing leaves but the tunnel, what it needs, and HTTP for packages:`, lines: `mode = "tunnel"

[inbound]
policy = "drop"
open = ["22/tcp from 192.0.2.0/24"]

[outbound]
policy = "drop"
allow = ["80/tcp", "443/tcp"]

[tunnel]
user = "cloudflared"

[metrics]
listen = "127.0.0.1:9477"
`},
}

// configSteps are how a file is brought in force.
var configSteps = section{text: "Look at what a changed file would do, then put it in force so that it cannot lock you out:",
	lines: "sudo cfwall check\nsudo cfwall plan\nsudo cfwall apply --confirm 60s"}
