package neighbourtest

import (
	"encoding/json"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ourLife is all that is done with cfwall from its installation to its end.
func ourLife() []step {
	const tunnel = "mode = \"tunnel\"\n[tunnel]\nready = \"off\"\n"
	return []step{
		{"the first start", (*machine).startDaemon},
		{"a reload with other ports", reloadWith("[web]\ntcp = [80, 443, \"8000-8010\"]\n")},
		{"mode tunnel", reloadWith(tunnel)},
		{"mode cloudflare again", reloadWith("")},
		{"allow --for", cfwall("allow", "198.51.100.9", "--for", "1h")},
		{"allow --remove", cfwall("allow", "--remove", "198.51.100.9")},
		{"inbound drop", reloadWith("[inbound]\npolicy = \"drop\"\n")},
		{"inbound and outbound drop", reloadWith(tunnel + "[inbound]\npolicy = \"drop\"\n[outbound]\npolicy = \"drop\"\n")},
		{"kill -9", func(m *machine) { m.end(m.daemon, unix.SIGKILL) }},
		{"a start after it", (*machine).startDaemon},
		{"the default policy again", reloadWith("")},
		{"off", cfwall("off")},
		{"on", cfwall("on")},
		{"a stop", (*machine).stopDaemon},
		{"apply without a daemon", cfwall("apply")},
		{"off without a daemon", func(m *machine) {
			m.cfwallDoes("off")
			if tables := m.run("nft", "list", "tables"); strings.Contains(tables, "cfwall") {
				m.Fatalf("after off there is still:\n%s", tables)
			}
		}},
	}
}

func cfwall(args ...string) func(*machine) {
	return func(m *machine) { m.cfwallDoes(args...) }
}

func (m *machine) cfwallDoes(args ...string) {
	m.Helper()
	m.run(m.cfwall, args...)
}

func reloadWith(config string) func(*machine) {
	return func(m *machine) {
		m.write("/etc/cfwall/config.toml", config)
		m.cfwallDoes("reload")
		m.expectWhole("reload")
	}
}

func (m *machine) startDaemon() {
	m.Helper()
	m.daemon = m.background(m.cfwall, "run")
	for late := time.Now().Add(patience); !m.status().Daemon.Running; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(late) {
			log, _ := os.ReadFile("/var/log/cfwall.output")
			m.Fatalf("after %v the daemon does not run\n%s", patience, log)
		}
	}
	m.expectWhole("the start")
}

func (m *machine) stopDaemon() {
	m.Helper()
	m.end(m.daemon, unix.SIGTERM)
	m.expectWhole("the stop")
}

// A status is what `cfwall status` tells about our table.
type status struct {
	Table struct {
		Present   bool
		Matches   bool
		Ownership string
	}
	Daemon struct{ Running bool }
}

func (m *machine) status() (s status) {
	m.Helper()
	out, _ := m.try(m.cfwall, "status", "-o", "json") // its exit code repeats the verdict
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&s); err != nil {
		m.Fatalf("cfwall status: %v\n%s", err, out)
	}
	return s
}

// expectWhole wants our table to be as the policy wants it: at the first look
// where nobody else can change it, and soon where it had to be repaired.
func (m *machine) expectWhole(after string) {
	m.Helper()
	for late := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		s := m.status()
		if s.Table.Matches {
			return
		}
		if m.owned || time.Now().After(late) {
			m.Fatalf("after %s our table is %+v", after, s.Table)
		}
	}
}
