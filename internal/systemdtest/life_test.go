package systemdtest

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cfwall/cfwall/internal/lab"
)

// A life is a machine on which cfwall is installed, and what passes its
// firewall meanwhile.
type life struct {
	*machine
	site     *site
	edges    *lab.Arrivals // at the ports that the config guards
	old, new string        // packages
}

// newLife boots a fresh machine, on which cfwall is not installed yet.
func newLife(t *testing.T, suite string) *life {
	t.Helper()
	d, s := newDisk(t, suite), newSite(t)
	d.useEarlyNetwork(t)
	d.reach(t, s.client.Cloudflare(lab.Client4), lab.Client4)
	l := &life{machine: boot(t, d, s), site: s, old: d.deliver(t, "old"), new: d.deliver(t, "new")}
	l.expectOpen()
	l.edges = s.web.CountArrivals(t, "tcp", 443, netip.PrefixFrom(edge4, 32), netip.PrefixFrom(edge6, 128))
	return l
}

// From its installation until its purge, whatever its administrator does and
// whatever happens to it, no stranger gets an answer and no packet of
// Cloudflare is dropped.
func TestLifeOfAPackage(t *testing.T) {
	onEach(t, func(t *testing.T, suite string) {
		l := newLife(t, suite)
		l.install(l.old)
		l.underKnocks("nothing", func() { time.Sleep(100 * time.Millisecond) })
		for _, e := range events {
			l.underKnocks(e.name, func() { e.happens(l) })
		}
		l.run("apt-get", "purge", "-y", "cfwall")
		l.expectOpen()
		l.expectNothingLeft()
	})
}

var events = []struct {
	name    string
	happens func(*life)
}{
	{"systemctl status", (*life).showStatus},
	{"a reload", (*life).reload},
	{"a reload of a broken config", (*life).reloadBroken},
	{"a restart", func(l *life) { l.replaced(func() { l.run("systemctl", "restart", "cfwall") }) }},
	{"kill -9", func(l *life) { l.replaced(func() { l.kill("KILL") }) }},
	{"a daemon that hangs", (*life).hang},
	{"an upgrade", func(l *life) { l.exchange(l.new) }},
	{"a downgrade", func(l *life) { l.exchange(l.old) }},
	{"a stop", func(l *life) { l.run("systemctl", "stop", "cfwall") }},
	{"a start", func(l *life) { l.run("systemctl", "start", "cfwall"); l.expectProtected() }},
	{"a removal", (*life).remove},
}

// expectOpen waits until strangers and Cloudflare get answers. It leaves no
// connection half open: the host would go on answering that.
func (l *life) expectOpen() {
	l.Helper()
	defer l.site.knock()()
	strangers, edges := l.site.strangersAnswered(l.T), l.site.edgesAnswered(l.T)
	l.await("everybody gets in", func() bool {
		return l.site.strangersAnswered(l.T) > strangers && l.site.edgesAnswered(l.T) > edges
	})
}

// underKnocks has something happen, and looks for packets that were leaked and
// lost meanwhile.
func (l *life) underKnocks(name string, happens func()) {
	l.Helper()
	answered, start := l.site.strangersAnswered(l.T), time.Now()
	came, passed := l.edges.Read(l.T)
	stop := l.site.knock()
	happens()
	stop()
	if leaked := l.site.strangersAnswered(l.T) - answered; leaked != 0 {
		l.Errorf("LEAKED %d answers to strangers: %s", leaked, name)
	}
	nowCame, nowPassed := l.edges.Read(l.T)
	came, passed = nowCame-came, nowPassed-passed
	if came == 0 || passed != came {
		l.Errorf("LOST %d of %d packets of Cloudflare: %s", came-passed, came, name)
	}
	l.Logf("%s: %v, %d packets of Cloudflare passed", name, time.Since(start).Round(time.Millisecond), passed)
}

// expectProtected waits until cfwall says, by its exit code, that all is well.
func (l *life) expectProtected() {
	l.Helper()
	l.await("cfwall says that the machine is protected", func() bool {
		_, err := l.try("cfwall", "status")
		return err == nil
	})
}

// expectJournal waits until the service, or systemd about it, has said something.
func (l *life) expectJournal(words string) {
	l.Helper()
	l.await("the journal says: "+words, func() bool {
		return strings.Contains(l.run("journalctl", "--no-pager", "-u", "cfwall.service"), words)
	})
}

func (l *life) showStatus() {
	status := l.run("systemctl", "status", "cfwall")
	if !strings.Contains(status, `Status: "protected`) {
		l.Errorf("systemctl status shows no such line of the daemon:\n%s", status)
	}
}

const (
	configFile = "/etc/cfwall/config.toml"
	// config is the administrator's: one more port is guarded.
	config = "web.tcp = [80, 443, 8443]\n"
)

// reload is over when the new rules are in force.
func (l *life) reload() {
	l.write(l.T, configFile, config)
	l.run("systemctl", "reload", "cfwall")
	l.expectConfig()
}

// expectConfig looks for the administrator's port in the kernel.
func (l *life) expectConfig() {
	l.Helper()
	if rules := l.run("nft", "list", "chain", "inet", "cfwall", "guard"); !strings.Contains(rules, "8443") {
		l.Errorf("the config of the administrator is not in force:\n%s", rules)
	}
}

func (l *life) reloadBroken() {
	l.write(l.T, configFile, "mode = \"clodflare\"\n")
	if out, err := l.try("systemctl", "reload", "cfwall"); err == nil {
		l.Errorf("a reload of a broken config went well: %s", out)
	}
	l.expectJournal("clodflare")
	l.expectConfig()
	l.write(l.T, configFile, config)
	l.run("systemctl", "reload", "cfwall")
	l.expectProtected()
}

func (l *life) kill(signal string) {
	l.Helper()
	l.run("systemctl", "kill", "--signal=SIG"+signal, "--kill-who=main", "cfwall")
}

// replaced does something after which another process is the daemon.
func (l *life) replaced(do func()) {
	l.Helper()
	before := l.property("cfwall.service", "MainPID")
	do()
	l.await("there is another daemon", func() bool {
		pid := l.property("cfwall.service", "MainPID")
		return pid != before && pid != "0" && l.property("cfwall.service", "ActiveState") == "active"
	})
	l.expectProtected()
}

// hang stops the daemon as a fault in it would, which systemd finds out.
func (l *life) hang() {
	const short = "/etc/systemd/system/cfwall.service.d/short.conf"
	l.write(l.T, short, "[Service]\nWatchdogSec=5s\n")
	l.run("systemctl", "daemon-reload")
	l.run("systemctl", "restart", "cfwall")
	l.replaced(func() { l.kill("STOP") })
	l.expectJournal("Watchdog timeout")
	l.run("rm", "-r", filepath.Dir(short))
	l.run("systemctl", "daemon-reload")
}

func (l *life) install(deb string) {
	l.Helper()
	l.run("apt-get", "install", "-y", "--allow-downgrades", deb)
	l.expectProtected()
}

// exchange puts another version in place.
func (l *life) exchange(deb string) {
	l.Helper()
	l.replaced(func() { l.install(deb) })
	l.expectVersion(deb)
	l.expectConfig()
}

// expectVersion asks the daemon whether it is the one of a package.
func (l *life) expectVersion(deb string) {
	l.Helper()
	version := strings.Split(filepath.Base(deb), "_")[1]
	if status := l.run("cfwall", "status", "-o", "json"); !strings.Contains(status, fmt.Sprintf("%q", version)) {
		l.Errorf("the daemon is not of version %s:\n%s", version, status)
	}
}

func (l *life) remove() {
	l.run("apt-get", "remove", "-y", "cfwall")
	if state, _ := l.try("systemctl", "is-active", "cfwall"); strings.TrimSpace(state) == "active" {
		l.Error("the daemon still runs after the package was removed")
	}
	l.expectConfig()
	l.run("ls", configFile)
}

// expectNothingLeft looks for whatever has the name.
func (l *life) expectNothingLeft() {
	l.Helper()
	left := l.run("find", "/etc", "/usr", "/var", "/run", "-xdev", "-name", "*cfwall*", "-not", "-path", "/var/log/*")
	left += l.run("nft", "list", "tables")
	if strings.Contains(left, "cfwall") {
		l.Errorf("left after the purge:\n%s", left)
	}
}
