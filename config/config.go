package config

import (
	"bytes"
	_ "embed" // the reference file
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/ipranges"
)

// Reference is a configuration file that names every key, explains it and
// gives it its default value.
//
//go:embed reference.toml
var Reference string

// maxSize bounds the file in bytes: far above any real one, far below what
// would hurt.
const maxSize = 1 << 20

// maxKeys bounds the signs that keys and tables are written with: far above those
// of any real file, comments included. The TOML library compares each key with all
// others, which takes minutes for a file that is large and something else.
const maxKeys = 2000

// Config is what the administrator wants.
type Config struct {
	Policy  firewall.Policy
	Tunnel  Tunnel
	Ranges  Ranges
	Metrics Metrics
	Log     Log
}

// Ranges says where Cloudflare's list comes from, how often it is fetched and
// how far a new one may differ from the one in force.
type Ranges struct {
	Schedule ipranges.Schedule
	// ScheduleText is the cron expression as it was written.
	ScheduleText string
	Source       ipranges.Source
	// MaxChange is the greatest change that is taken over without asking, as
	// a share of a family's address space: above 0, at most 1.
	MaxChange float64
}

// Metrics says where the metrics are offered. Empty means nowhere.
type Metrics struct {
	// Listen is "ADDRESS:PORT"; the address is never left out, so that
	// nothing is published to every network by accident.
	Listen string
	// Textfile is the absolute path of a file for node_exporter.
	Textfile string
}

// Log says what is written to the log.
type Log struct {
	Level slog.Level
}

// Default returns what an empty file means.
func Default() Config {
	const everySixHours = "@every 6h"
	schedule, err := ipranges.ParseSchedule(everySixHours)
	if err != nil {
		panic("config: the default schedule: " + err.Error())
	}
	source := ipranges.DefaultSource
	source.Text = slices.Clone(source.Text)
	return Config{
		Policy: firewall.Policy{
			Mode:             firewall.ModeCloudflare,
			TCP:              []firewall.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}},
			UDP:              []firewall.PortRange{{First: 443, Last: 443}},
			ContainerBridges: true,
			Inbound: firewall.Inbound{
				Open: []firewall.Service{{Protocol: "tcp", Ports: firewall.PortRange{First: sshPort, Last: sshPort}}},
			},
		},
		Tunnel: Tunnel{Region: "global"},
		Ranges: Ranges{Schedule: schedule, ScheduleText: everySixHours, Source: source, MaxChange: 0.2},
		Log:    Log{Level: slog.LevelInfo},
	}
}

// Parse reads a configuration file; name is what messages call it. A file that
// is not acceptable gives Errors with everything that is wrong with it, so
// that it can be put right in one go.
func Parse(r io.Reader, name string) (Config, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return Config{}, fmt.Errorf("reading %s: %w", name, err)
	}
	d := document{name: name, text: text}
	if len(text) > maxSize {
		return Config{}, Errors{{File: name, Message: "the file is larger than 1 MiB"}}
	}
	if keys := bytes.Count(text, []byte("=")) + bytes.Count(text, []byte("[")); keys > maxKeys {
		return Config{}, Errors{{File: name, Message: fmt.Sprintf("the file has more than %d keys and tables", maxKeys)}}
	}
	c := d.config(d.raw())
	if len(d.errs) > 0 {
		return Config{}, d.sorted()
	}
	return c, nil
}

// config gives every key that the file sets its meaning.
func (d *document) config(r raw) Config {
	c := Default()
	set(d, r.Mode, &c.Policy.Mode, text(oneOf("mode", firewall.ModeCloudflare, firewall.ModeTunnel)))
	set(d, r.Audit, &c.Policy.Audit, parseBool)
	d.web(r, &c.Policy)
	d.allow(r, &c.Policy)
	set(d, r.Inbound.Policy, &c.Policy.Inbound.Drop, text(parseDrop))
	setAll(d, r.Inbound.Open, &c.Policy.Inbound.Open, service(inboundWord))
	set(d, r.Outbound.Policy, &c.Policy.Outbound.Drop, text(parseDrop))
	setAll(d, r.Outbound.Allow, &c.Policy.Outbound.Allow, service(outboundWord))
	d.tunnel(r, &c)
	d.ranges(r, &c.Ranges)
	set(d, r.Metrics.Listen, &c.Metrics.Listen, text(parseListen))
	set(d, r.Metrics.Textfile, &c.Metrics.Textfile, text(parseTextfile))
	set(d, r.Log.Level, &c.Log.Level, text(parseLevel))
	return c
}

func (d *document) web(r raw, p *firewall.Policy) {
	setAll(d, r.Web.TCP, &p.TCP, parseTCP)
	setAll(d, r.Web.UDP, &p.UDP, parsePorts)
	p.TCP, p.UDP = firewall.MergePorts(p.TCP), firewall.MergePorts(p.UDP)
	if r.Web.TCP.emptyArray() && r.Web.UDP.emptyArray() {
		d.fail(r.Web.TCP.span, problem{"web.tcp and web.udp are both empty: nothing would be guarded", cureOff})
	}
}

func (d *document) allow(r raw, p *firewall.Policy) {
	var networks []netip.Prefix
	setAll(d, r.Allow.From, &networks, text(parseNetwork))
	p.Allow = ipranges.NewList(networks...)
	for _, n := range p.Allow.Networks() {
		if n.Bits() == 0 {
			d.fail(r.Allow.From.span, problem{fmt.Sprintf("these networks together are %s: everybody", n), cureOff})
		}
	}
	setAll(d, r.Allow.Interfaces, &p.Interfaces, text(parseInterface))
	p.Interfaces = mergeInterfaces(p.Interfaces)
	set(d, r.Allow.ContainerBridges, &p.ContainerBridges, parseBool)
}

func (d *document) ranges(r raw, to *Ranges) {
	if set(d, r.Ranges.Schedule, &to.Schedule, text(parseSchedule)) {
		to.ScheduleText = r.Ranges.Schedule.text
	}
	set(d, r.Ranges.API, &to.Source.API, text(parseURL))
	set(d, r.Ranges.ChinaNetwork, &to.Source.ChinaNetwork, parseBool)
	set(d, r.Ranges.MaxChange, &to.MaxChange, parseChange)
	if setAll(d, r.Ranges.Text, &to.Source.Text, text(parseURL)) && len(to.Source.Text) != 2 {
		d.fail(r.Ranges.Text.span, problem{"ranges.text must be two URLs", "the IPv4 page first, then the IPv6 page"})
	}
}
