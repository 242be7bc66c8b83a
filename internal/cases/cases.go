package cases

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/ipranges"
)

// A Situation is all that Build looks at.
type Situation struct {
	Policy firewall.Policy
	Lists  firewall.Lists
	Host   firewall.Host
}

// Build makes the ruleset.
func (s Situation) Build(t testing.TB) firewall.Ruleset {
	t.Helper()
	r, err := firewall.Build(s.Policy, s.Lists, s.Host)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A Case is a directory of testdata/cases.
type Case struct {
	Situation
	// Want is the path of the text that must come out.
	Want string
}

// Names lists the cases.
func Names(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(root(t))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		t.Fatalf("%s holds no cases", root(t))
	}
	return names
}

// Load reads a case: config.toml, and if there are any
//
//   - ranges.txt, one network a line, instead of testdata/cases/ranges.txt;
//   - host.json, a firewall.Host, instead of an ordinary one;
//   - temporary.txt, a network and a duration a line, counted from now.
func Load(t testing.TB, name string) Case {
	t.Helper()
	d := dir{t, filepath.Join(root(t), name)}
	parsed, err := config.Parse(bytes.NewReader(d.read("config.toml")), "config.toml")
	if err != nil {
		t.Fatal(err)
	}
	return Case{
		Situation: Situation{
			Policy: parsed.Policy,
			Lists:  firewall.Lists{Cloudflare: d.ranges(), Temporary: d.temporary(time.Now())},
			Host:   d.host(),
		},
		Want: filepath.Join(d.path, "want.nft"),
	}
}

// root finds testdata/cases from the package directory that a test runs in.
func root(t testing.TB) string {
	t.Helper()
	above, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; above != "/"; above = filepath.Dir(above) {
		if _, err := os.Stat(filepath.Join(above, "go.mod")); err == nil {
			break
		}
	}
	return filepath.Join(above, "testdata", "cases")
}

// Ordinary is a host as most are: with IPv6, no router, Linux's ephemeral ports.
func Ordinary() firewall.Host {
	return firewall.Host{IPv6: true, Ephemeral: []firewall.PortRange{{First: 32768, Last: 60999}}}
}

// Published reads testdata/cases/ranges.txt: what Cloudflare published in 2026.
func Published(t testing.TB) ipranges.List {
	t.Helper()
	return dir{t, root(t)}.networks("ranges.txt")
}

type dir struct {
	t    testing.TB
	path string
}

func (d dir) read(file string) []byte {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.path, file))
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

func (d dir) has(file string) bool {
	_, err := os.Stat(filepath.Join(d.path, file))
	return !errors.Is(err, fs.ErrNotExist)
}

func (d dir) ranges() ipranges.List {
	if !d.has("ranges.txt") {
		return Published(d.t)
	}
	return d.networks("ranges.txt")
}

func (d dir) networks(file string) ipranges.List {
	d.t.Helper()
	var networks []netip.Prefix
	for _, line := range d.lines(file) {
		networks = append(networks, netip.MustParsePrefix(line))
	}
	return ipranges.NewList(networks...)
}

func (d dir) temporary(now time.Time) []firewall.Temporary {
	d.t.Helper()
	if !d.has("temporary.txt") {
		return nil
	}
	var entries []firewall.Temporary
	for _, line := range d.lines("temporary.txt") {
		network, left, _ := strings.Cut(line, " ")
		duration, err := time.ParseDuration(left)
		if err != nil {
			d.t.Fatal(err)
		}
		entries = append(entries, firewall.Temporary{Network: netip.MustParsePrefix(network), Expires: now.Add(duration)})
	}
	return entries
}

func (d dir) lines(file string) []string {
	d.t.Helper()
	var lines []string
	for s := bufio.NewScanner(bytes.NewReader(d.read(file))); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines
}

func (d dir) host() firewall.Host {
	d.t.Helper()
	host := Ordinary()
	if !d.has("host.json") {
		return host
	}
	decoder := json.NewDecoder(bytes.NewReader(d.read("host.json")))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&host); err != nil {
		d.t.Fatal(err)
	}
	return host
}
