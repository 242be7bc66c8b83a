package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pelletier/go-toml/v2"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/ipranges"
)

// diff compares configurations; a schedule is known by its text.
func diff(want, got Config) string {
	return cmp.Diff(want, got, cmpopts.IgnoreFields(Ranges{}, "Schedule"), cmpopts.EquateEmpty(), cmpopts.EquateApprox(0, 1e-12))
}

func networks(t *testing.T, texts ...string) ipranges.List {
	t.Helper()
	var all []netip.Prefix
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return ipranges.NewList(all...)
}

// edge is the documented edge of a region.
func edge(t *testing.T, region string) ipranges.List {
	t.Helper()
	list, found := ipranges.TunnelEdge(region)
	if !found {
		t.Fatalf("there is no region %q", region)
	}
	return list
}

func TestDefault(t *testing.T) {
	schedule, err := ipranges.ParseSchedule("@every 6h")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Policy: firewall.Policy{
			Mode:             firewall.ModeCloudflare,
			TCP:              []firewall.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}},
			UDP:              []firewall.PortRange{{First: 443, Last: 443}},
			ContainerBridges: true,
			Inbound:          firewall.Inbound{Open: []firewall.Service{{Protocol: "tcp", Ports: firewall.PortRange{First: 22, Last: 22}}}},
		},
		Tunnel: Tunnel{Region: "global"},
		Ranges: Ranges{
			Schedule:     schedule,
			ScheduleText: "@every 6h",
			Source: ipranges.Source{
				API:  "https://api.cloudflare.com/client/v4/ips",
				Text: []string{"https://www.cloudflare.com/ips-v4", "https://www.cloudflare.com/ips-v6"},
			},
			MaxChange: 0.2,
		},
		Log: Log{Level: slog.LevelInfo},
	}
	if d := diff(want, Default()); d != "" {
		t.Errorf("default (-want +got):\n%s", d)
	}
}

func TestDefaultIsNotShared(t *testing.T) {
	Default().Ranges.Source.Text[0] = "https://changed.example.org/"
	if got := Default().Ranges.Source.Text[0]; strings.Contains(got, "changed") {
		t.Errorf("the next default has %s", got)
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		name, file string
		change     func(*Config)
	}{
		{"OK empty", "", func(*Config) {}},
		{"OK comments only", "# nothing\n\n", func(*Config) {}},
		{"OK empty tables", "[web]\n[allow]\n[inbound]\n[outbound]\n[tunnel]\n[ranges]\n[metrics]\n[log]\n", func(*Config) {}},
		{"OK reference", Reference, func(*Config) {}},
		{"OK mode", `mode = "cloudflare"`, func(*Config) {}},
		{"OK mode tunnel", `mode = "tunnel"`, func(c *Config) { c.Policy.Mode = firewall.ModeTunnel }},
		{"OK audit", `audit = true`, func(c *Config) { c.Policy.Audit = true }},
		{"OK no audit", `audit = false`, func(*Config) {}},
		{"OK ports and ranges", `web.tcp = [443, "8000-8010", 0x50, "8443"]`, func(c *Config) {
			c.Policy.TCP = []firewall.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}, {First: 8000, Last: 8010}, {First: 8443, Last: 8443}}
		}},
		{"OK ports merged", `web.tcp = [80, 80, 81, "82-90", "85-100"]`, func(c *Config) {
			c.Policy.TCP = []firewall.PortRange{{First: 80, Last: 100}}
		}},
		{"OK first and last port", `web.udp = [1, 65535]`, func(c *Config) {
			c.Policy.UDP = []firewall.PortRange{{First: 1, Last: 1}, {First: 65535, Last: 65535}}
		}},
		{"OK UDP port 22", `web.udp = [22]`, func(c *Config) {
			c.Policy.UDP = []firewall.PortRange{{First: 22, Last: 22}}
		}},
		{"OK no UDP", `web.udp = []`, func(c *Config) { c.Policy.UDP = nil }},
		{"OK no TCP", `web.tcp = []`, func(c *Config) { c.Policy.TCP = nil }},
		{"OK in braces", `web = { tcp = [8080], udp = [] }`, func(c *Config) {
			c.Policy.TCP, c.Policy.UDP = []firewall.PortRange{{First: 8080, Last: 8080}}, nil
		}},
		{"OK CRLF and no end of line", "[web]\r\ntcp = [8080]\r\nudp = []", func(c *Config) {
			c.Policy.TCP, c.Policy.UDP = []firewall.PortRange{{First: 8080, Last: 8080}}, nil
		}},
		{"OK addresses and networks", `allow.from = ["192.0.2.7", "198.51.100.0/24", "2001:db8::/48", "2001:DB8:1::7"]`, func(c *Config) {
			c.Policy.Allow = networks(t, "192.0.2.7/32", "198.51.100.0/24", "2001:db8::/48", "2001:db8:1::7/128")
		}},
		{"OK networks merged", `allow.from = ["192.0.2.7", "192.0.2.0/24", "192.0.2.0/25", "192.0.2.7"]`, func(c *Config) {
			c.Policy.Allow = networks(t, "192.0.2.0/24")
		}},
		{"OK interfaces", `allow.interfaces = ["wg*", "tailscale0", "eth1", "br-0123456789ab", "docker*", "veth*"]`, func(c *Config) {
			c.Policy.Interfaces = []string{"br-0123456789ab", "docker*", "eth1", "tailscale0", "veth*", "wg*"}
		}},
		{"OK interfaces merged", `allow.interfaces = ["wg#1", "wg0", "wg*", "wg1*", "tun0", "tun0"]`, func(c *Config) {
			c.Policy.Interfaces = []string{"tun0", "wg*"}
		}},
		{"OK no container bridges", `allow.container_bridges = false`, func(c *Config) { c.Policy.ContainerBridges = false }},
		{"OK policies", "inbound.policy = 'drop'\noutbound.policy = 'drop'", func(c *Config) {
			c.Policy.Inbound.Drop, c.Policy.Outbound.Drop = true, true
		}},
		{"OK policies accept", "inbound.policy = 'accept'\noutbound.policy = 'accept'", func(*Config) {}},
		{"OK nothing open", "[inbound]\npolicy = 'drop'\nopen = []", func(c *Config) {
			c.Policy.Inbound = firewall.Inbound{Drop: true}
		}},
		{"OK services wait for their policies", "inbound.open = ['2222/tcp']\noutbound.allow = ['25/tcp']", func(c *Config) {
			c.Policy.Inbound.Open = []firewall.Service{{Protocol: "tcp", Ports: firewall.PortRange{First: 2222, Last: 2222}}}
			c.Policy.Outbound.Allow = []firewall.Service{{Protocol: "tcp", Ports: firewall.PortRange{First: 25, Last: 25}}}
		}},
		{"OK region", `tunnel.region = "us"`, func(c *Config) { c.Tunnel.Region = "us" }},
		{"OK edge ranges", "[tunnel]\nregion = 'fed'\nedge = 'ranges'", func(c *Config) { c.Tunnel.Region = "fed" }},
		{"OK edge strict", "tunnel.edge = 'strict'", func(c *Config) { c.Policy.Tunnel.Edge = edge(t, "global") }},
		{"OK edge strict before its region", "[tunnel]\nedge = 'strict'\nregion = 'fed'", func(c *Config) {
			c.Tunnel.Region, c.Policy.Tunnel.Edge = "fed", edge(t, "fed")
		}},
		{"OK user", `tunnel.user = "cloudflared"`, func(c *Config) { c.Policy.Tunnel.User = "cloudflared" }},
		{"OK user number", `tunnel.user = "4294967294"`, func(c *Config) { c.Policy.Tunnel.User = "4294967294" }},
		{"OK user of a directory service", `tunnel.user = "svc.tünnel@example.org$"`, func(c *Config) {
			c.Policy.Tunnel.User = "svc.tünnel@example.org$"
		}},
		{"OK every user", `tunnel.user = ""`, func(*Config) {}},
		{"OK ready auto", `tunnel.ready = "auto"`, func(*Config) {}},
		{"OK ready off", `tunnel.ready = "off"`, func(c *Config) { c.Tunnel.Ready.Off = true }},
		{"OK ready address", `tunnel.ready = "[::1]:2000"`, func(c *Config) { c.Tunnel.Ready.Addresses = []string{"[::1]:2000"} }},
		{"OK ready name", `tunnel.ready = "cloudflared.internal:2000"`, func(c *Config) {
			c.Tunnel.Ready.Addresses = []string{"cloudflared.internal:2000"}
		}},
		{"OK ready several", `tunnel.ready = ["127.0.0.1:20242", "127.0.0.1:020241", "127.0.0.1:20242"]`, func(c *Config) {
			c.Tunnel.Ready.Addresses = []string{"127.0.0.1:20241", "127.0.0.1:20242"}
		}},
		{"OK cron expression", `ranges.schedule = "17 */4 * * *"`, func(c *Config) { c.Ranges.ScheduleText = "17 */4 * * *" }},
		{"OK mirror", `
			[ranges]
			api = "https://mirror.example.org:8443/ips?x=1"
			text = ["https://mirror.example.org/4", 'https://mirror.example.org/6']
			china_network = true`, func(c *Config) {
			c.Ranges.Source = ipranges.Source{
				API:          "https://mirror.example.org:8443/ips?x=1",
				Text:         []string{"https://mirror.example.org/4", "https://mirror.example.org/6"},
				ChinaNetwork: true,
			}
		}},
		{"OK max_change", `ranges.max_change = "7.5%"`, func(c *Config) { c.Ranges.MaxChange = 0.075 }},
		{"OK max_change anything", `ranges.max_change = "100%"`, func(c *Config) { c.Ranges.MaxChange = 1 }},
		{"OK listen", `metrics.listen = "[::1]:9477"`, func(c *Config) { c.Metrics.Listen = "[::1]:9477" }},
		{"OK listen localhost", `metrics.listen = "localhost:9477"`, func(c *Config) { c.Metrics.Listen = "localhost:9477" }},
		{"OK listen everywhere, in so many words", `metrics.listen = "0.0.0.0:9477"`, func(c *Config) { c.Metrics.Listen = "0.0.0.0:9477" }},
		{"OK textfile", `metrics.textfile = "/var/lib/../lib/x.prom"`, func(c *Config) { c.Metrics.Textfile = "/var/lib/x.prom" }},
		{"OK level debug", `log.level = "debug"`, func(c *Config) { c.Log.Level = slog.LevelDebug }},
		{"OK level warn", `log.level = "warn"`, func(c *Config) { c.Log.Level = slog.LevelWarn }},
		{"OK level error", `log.level = "error"`, func(c *Config) { c.Log.Level = slog.LevelError }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := Default()
			tt.change(&want)
			got, err := Parse(strings.NewReader(tt.file), "config.toml")
			if err != nil {
				t.Fatal(err)
			}
			if d := diff(want, got); d != "" {
				t.Errorf("config (-want +got):\n%s", d)
			}
		})
	}
}

// TestParseSchedule looks at the schedule itself, which diff leaves out.
func TestParseSchedule(t *testing.T) {
	now := time.Date(2026, 10, 2, 12, 5, 0, 0, time.UTC)
	half := func() float64 { return 0.5 }
	for _, text := range []string{"@every 6h", "@every 90m", "17 */4 * * *"} {
		c, err := Parse(strings.NewReader("ranges.schedule = '"+text+"'"), "config.toml")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		want, err := ipranges.ParseSchedule(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := c.Ranges.Schedule.Next(now, half), want.Next(now, half); !got.Equal(want) {
			t.Errorf("%s: next is %s, want %s", text, got, want)
		}
	}
}

func TestReferenceNamesEveryKey(t *testing.T) {
	var r raw
	d := document{name: "reference.toml", text: []byte(Reference)}
	r = d.raw()
	for key, v := range r.keys() {
		if *v == nil {
			t.Errorf("reference.toml does not set %s", key)
		}
	}
}

func TestErrorsAreTyped(t *testing.T) {
	_, err := Parse(strings.NewReader("mode = \"tunel\"\n[web]\ntpc = [80]\n"), "/etc/cfwall/config.toml")
	var all Errors
	if !errors.As(err, &all) {
		t.Fatalf("got %T, want Errors", err)
	}
	want := Errors{
		{File: "/etc/cfwall/config.toml", Line: 1, Column: 8, Excerpt: `mode = "tunel"`,
			Message: `unknown mode "tunel"`, Suggestion: `did you mean "tunnel"?`},
		{File: "/etc/cfwall/config.toml", Line: 3, Column: 1, Excerpt: `tpc = [80]`,
			Message: `unknown key "web.tpc"`, Suggestion: `did you mean "tcp"?`},
	}
	if d := cmp.Diff(want, all, cmpopts.IgnoreUnexported(Error{})); d != "" {
		t.Errorf("errors (-want +got):\n%s", d)
	}
	var first *Error
	if !errors.As(err, &first) || first != all[0] {
		t.Errorf("errors.As found %v, want the first error", first)
	}
}

func TestErrorsAreBounded(t *testing.T) {
	_, err := Parse(strings.NewReader("web.tcp = ["+strings.Repeat("0,", 100_000)+"]"), "config.toml")
	var all Errors
	if !errors.As(err, &all) || len(all) != maxErrors {
		t.Fatalf("got %d errors, want %d", len(all), maxErrors)
	}
	if text := err.Error(); len(text) > 20_000 || !strings.Contains(text, "there may be more") {
		t.Errorf("the message has %d bytes and ends in %q", len(text), text[len(text)-60:])
	}
}

func TestControlCharactersAreNotPrinted(t *testing.T) {
	for _, file := range []string{
		"mode = \"\x1b[2J\"",
		"\"\\u001b[2J\" = 1",
		"\"\\u001b\" = 1\n\"\\u001b\" = 1",
		"[\"\\u001b\"]",
		"mode = \xff",
	} {
		_, err := Parse(strings.NewReader(file), "config.toml")
		if err == nil {
			t.Errorf("%q was accepted", file)
			continue
		}
		if text := err.Error(); strings.Contains(text, "\x1b") || !utf8.ValidString(text) {
			t.Errorf("%q gives %q", file, text)
		}
	}
}

func TestParseSize(t *testing.T) {
	full := strings.Repeat("#", maxSize)
	if _, err := Parse(strings.NewReader(full), "config.toml"); err != nil {
		t.Errorf("a file of 1 MiB: %v", err)
	}
	_, err := Parse(io.MultiReader(strings.NewReader(full), strings.NewReader("#")), "config.toml")
	if err == nil || err.Error() != "config.toml: the file is larger than 1 MiB" {
		t.Errorf("a larger file: %v", err)
	}
}

func TestLargeFilesOfNonsense(t *testing.T) {
	var keys strings.Builder
	for i := range 4_000 {
		fmt.Fprintf(&keys, "k%d = []\n", i)
	}
	for _, file := range []string{
		strings.Repeat("x", maxSize-2) + "=1",
		"mode = \"" + strings.Repeat("x", maxSize-10) + "\"",
		strings.Repeat("[", maxSize),
		keys.String(),
	} {
		_, err := Parse(strings.NewReader(file), "config.toml")
		if _, ok := errors.AsType[Errors](err); !ok {
			t.Errorf("%.20s...: got %T, want Errors", file, err)
		}
	}
}

func TestParseReadError(t *testing.T) {
	_, err := Parse(iotest.ErrReader(io.ErrUnexpectedEOF), "config.toml")
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want the reader's error", err)
	}
}

// FuzzParse looks for panics, and for files whose meaning changes when it is
// written down and read again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(Reference))
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := Parse(strings.NewReader(string(file)), "config.toml")
		if err != nil {
			if errs := (Errors)(nil); !errors.As(err, &errs) || len(errs) == 0 || err.Error() == "" {
				t.Fatalf("got %#v, want Errors", err)
			}
			return
		}
		again, err := Parse(strings.NewReader(written(t, c)), "config.toml")
		if err != nil {
			t.Fatalf("%q: reading it again: %v", file, err)
		}
		if d := diff(c, again); d != "" {
			t.Errorf("%q: reading it again (-first +second):\n%s", file, d)
		}
	})
}

// written is the file that says what c says, key by key.
func written(t *testing.T, c Config) string {
	t.Helper()
	table := map[string]any{
		"mode":  c.Policy.Mode,
		"audit": c.Policy.Audit,
		"web":   map[string]any{"tcp": texts(c.Policy.TCP), "udp": texts(c.Policy.UDP)},
		"allow": map[string]any{
			"from":              texts(c.Policy.Allow.Networks()),
			"interfaces":        append([]string{}, c.Policy.Interfaces...),
			"container_bridges": c.Policy.ContainerBridges,
		},
		"inbound":  map[string]any{"policy": policy(c.Policy.Inbound.Drop), "open": entries(c.Policy.Inbound.Open, "from")},
		"outbound": map[string]any{"policy": policy(c.Policy.Outbound.Drop), "allow": entries(c.Policy.Outbound.Allow, "to")},
		"tunnel": map[string]any{
			"region": c.Tunnel.Region,
			"edge":   map[bool]string{true: "ranges", false: "strict"}[c.Policy.Tunnel.Edge.Len() == 0],
			"user":   c.Policy.Tunnel.User,
			"ready":  ready(c.Tunnel.Ready),
		},
		"ranges": map[string]any{
			"schedule":      c.Ranges.ScheduleText,
			"api":           c.Ranges.Source.API,
			"text":          c.Ranges.Source.Text,
			"china_network": c.Ranges.Source.ChinaNetwork,
			"max_change":    strconv.FormatFloat(100*c.Ranges.MaxChange, 'g', -1, 64) + "%",
		},
		"metrics": map[string]any{"listen": c.Metrics.Listen, "textfile": c.Metrics.Textfile},
		"log":     map[string]any{"level": strings.ToLower(c.Log.Level.String())},
	}
	file, err := toml.Marshal(table)
	if err != nil {
		t.Fatal(err)
	}
	return string(file)
}

func policy(drop bool) string {
	return map[bool]string{true: "drop", false: "accept"}[drop]
}

func entries(services []firewall.Service, word string) []string {
	all := []string{}
	for _, s := range services {
		entry := s.Ports.String() + "/" + s.Protocol
		if s.Peers.Len() > 0 {
			entry += " " + word + " " + strings.Join(texts(s.Peers.Networks()), ",")
		}
		all = append(all, entry)
	}
	return all
}

func ready(r Ready) any {
	switch {
	case r.Off:
		return "off"
	case len(r.Addresses) > 0:
		return r.Addresses
	}
	return "auto"
}

func texts[T fmt.Stringer](values []T) []string {
	all := []string{}
	for _, v := range values {
		all = append(all, v.String())
	}
	return all
}

// A file of cfwall's size that is something else is refused at once: the daemon
// reads it, and must not be held up.
func TestParseManyKeys(t *testing.T) {
	for _, form := range []string{"a%d = 1\n", "[a%d]\n", "a%d.b = 1\n"} {
		var b strings.Builder
		for i := 0; b.Len() < maxSize-20; i++ {
			fmt.Fprintf(&b, form, i)
		}
		start := time.Now()
		if _, err := Parse(strings.NewReader(b.String()), "config.toml"); err == nil || !strings.Contains(err.Error(), "more than 2000 keys") {
			t.Errorf("%q: %v", form, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("%q: it took %v", form, took)
		}
	}
}
