package systemdtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cfwall/cfwall/systemd"
)

// prober has this program try the escapes instead of testing.
const prober = "CFWALL_ESCAPES"

// What takes the daemon over gets nowhere: all that this program tries in its
// place, in the sandbox of its unit, is refused. Root outside of it may.
func TestSandbox(t *testing.T) {
	onEach(t, func(t *testing.T, suite string) {
		d := newDisk(t, suite)
		d.useUnit(t)
		d.write(t, "/home/user/secret", "")
		program, err := os.ReadFile("/proc/self/exe")
		check(t, err)
		check(t, os.WriteFile(filepath.Join(d.root, "/usr/sbin/probe"), program, 0o755))
		d.write(t, "/etc/systemd/system/probe.service", strings.NewReplacer(
			"/usr/sbin/cfwall run", "/usr/sbin/probe", "/usr/sbin/cfwall\n", "/usr/sbin/probe\n",
			"Type=notify", "Type=oneshot\nEnvironment="+prober+"=1", "Restart=always\n", "", "ExecStartPre=", "# ", "StandardOutput=null", "StandardOutput=journal",
		).Replace(systemd.ServiceUnit))
		check(t, os.WriteFile(filepath.Join(d.root, "/usr/sbin/cfwall"), program, 0o755)) // whose existence is verified
		m := boot(t, d, newSite(t))
		m.expectSoundUnit()

		m.run("systemctl", "start", "probe")
		m.run("journalctl", "--sync")
		inside := results(m.run("journalctl", "-u", "probe", "-o", "cat"))
		m.run("mkdir", "-p", "/run/cfwall")
		outside := results(m.run("env", prober+"=1", "/usr/sbin/probe"))
		for _, w := range ways {
			if got := inside[w.name]; got != "done" {
				t.Errorf("the daemon needs to %s: %q", w.name, got)
			}
		}
		for _, e := range escapes {
			if got := inside[e.name]; !strings.HasPrefix(got, "refused") && !e.oldSystemd(suite) {
				t.Errorf("a daemon that was taken over can %s: %q", e.name, got)
			}
			if got := outside[e.name]; e.root && got != "done" {
				t.Errorf("root cannot %s either, so this proves nothing: %q", e.name, got)
			}
		}
	})
}

// expectSoundUnit has systemd read the unit, which complains on its output and
// ends well all the same, and rate its sandbox from 0 (best) to 10.
func (m *machine) expectSoundUnit() {
	const unit = "/usr/lib/systemd/system/cfwall.service"
	complaints := m.run("systemd-analyze", "verify", "--man=no", unit)
	for line := range strings.Lines(complaints) {
		if m.suite != "bullseye" || !strings.Contains(line, "ExecPaths'") { // new in 248
			m.Errorf("systemd-analyze verify: %s", line)
		}
	}
	if m.suite == "bookworm" { // others weigh in other ways
		rating := m.run("systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", unit)
		m.Log(rating[strings.LastIndex(strings.TrimSpace(rating), "\n")+1:])
	}
}

// oldSystemd holds for what systemd 247 cannot refuse: NoExecPaths= came with 248.
func (e escape) oldSystemd(suite string) bool {
	return suite == "bullseye" && strings.HasPrefix(e.name, "run a") && !strings.Contains(e.name, "memory")
}

// useUnit puts the unit, its user and its directories in place, as a package does.
func (d *disk) useUnit(t *testing.T) {
	t.Helper()
	d.write(t, "/usr/lib/systemd/system/cfwall.service", systemd.ServiceUnit)
	d.write(t, "/usr/lib/sysusers.d/cfwall.conf", systemd.SystemUser)
	d.write(t, "/usr/lib/tmpfiles.d/cfwall.conf", systemd.StateDirectory)
	d.write(t, "/etc/cfwall/config.toml", "")
	run(t, "systemd-sysusers", "--root="+d.root, "cfwall.conf")
}

func results(output string) map[string]string {
	all := make(map[string]string)
	for line := range strings.Lines(output) {
		if name, result, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			all[name] = result
		}
	}
	return all
}
