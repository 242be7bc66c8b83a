package systemdtest

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cfwall/cfwall/internal/lab"
)

// A try is what a new user may do, or meet, on a fresh machine. Strangers knock
// all the time: whatever goes wrong, nobody gets in who could not before.
type try struct {
	name string
	do   func(*life)
}

var tries = []try{
	{"the program alone", (*life).tryProgram},
	{"a typo in the config", (*life).tryTypo},
	{"a host with ufw", (*life).tryUfw},
	{"a port that is published for a container", (*life).tryContainer},
	{"cfwall runs already, in the foreground", (*life).tryForeground},
	{"a unit that is masked", (*life).tryMasked},
	{"a container without the capability", (*life).tryWithoutCapability},
	{"directories that cannot be written to", (*life).tryReadOnly},
}

func TestTriesOfANewUser(t *testing.T) {
	onEach(t, func(t *testing.T, suite string) {
		for _, try := range tries {
			t.Run(try.name, func(t *testing.T) {
				t.Parallel()
				try.do(newLife(t, suite))
			})
		}
	})
}

// program unpacks a package and returns the program in it.
func (l *life) program(deb string) string {
	l.Helper()
	dir := strings.TrimSuffix(deb, ".deb")
	l.run("dpkg-deb", "-x", deb, dir)
	return filepath.Join(dir, "usr/sbin/cfwall")
}

// tryProgram does what make install does, and more of its kind.
func (l *life) tryProgram() {
	older, newer := l.program(l.old), l.program(l.new)
	l.run(older, "install", "--yes")
	l.expectProtected()
	l.underKnocks("an installation over an old one", func() {
		l.replaced(func() { l.run(newer, "install", "--yes") })
		l.expectVersion(l.new)
	})
	l.underKnocks("uninstall", func() {
		l.expectSaid("STAY IN FORCE", "cfwall", "uninstall", "--yes")
		l.expectState("inactive")
	})
	l.underKnocks("an installation again", func() { l.run(newer, "install", "--yes"); l.expectProtected() })
	l.run("cfwall", "uninstall", "--open", "--yes")
	l.expectOpen()
	l.run(newer, "install", "--yes")
	l.shutDown()
	sealedBoot(l.T, l.disk, (*machine).shutDown)
}

// tryTypo restarts and boots with a config that is refused, the second time
// without one that has worked.
func (l *life) tryTypo() {
	l.install(l.new)
	l.write(l.T, configFile, "[web]\ntpc = [80, 443]\n")
	l.underKnocks("a restart with a typo", func() {
		l.expectRefused(`did you mean "tcp"?`, "cfwall", "check")
		l.run("systemctl", "restart", "cfwall")
		l.expectRefused("config-refused", "cfwall", "status")
	})
	l.run("sh", "-c", "rm -r /var/lib/cfwall/*")
	l.shutDown()
	sealedBoot(l.T, l.disk, (*machine).shutDown)
}

func (l *life) tryUfw() {
	l.run("ufw", "allow", "80,443/tcp")
	l.run("ufw", "--force", "enable")
	l.install(l.new)
	l.underKnocks("ufw reloads and goes", func() {
		l.run("ufw", "reload")
		l.run("ufw", "--force", "disable")
		l.expectProtected()
	})
}

// tryContainer has a container behind the web ports, as Docker publishes them.
func (l *life) tryContainer() {
	site := lab.Site{Net: l.site.net, Client: l.site.client, Web: l.site.web}
	container := site.Container()
	container.ListenTCP(":443")
	l.site.web.Nft(l.T, `table inet engine { chain prerouting {
		type nat hook prerouting priority dstnat
		fib daddr type local tcp dport { 80, 443 } dnat ip to 172.17.0.2:443
		fib daddr type local tcp dport { 80, 443 } dnat ip6 to [fd00:17::2]:443
		}
	}`)
	inside := container.CountArrivals(l.T, "tcp", 443)
	l.expectOpen()
	l.install(l.new)
	before, _ := inside.Read(l.T)
	if before == 0 {
		l.Error("the container heard of nobody while the host was open")
	}
	l.underKnocks("a published port", func() {
		l.await("the container hears of Cloudflare", func() bool { n, _ := inside.Read(l.T); return n > before })
	})
}

// tryForeground installs the package beside a daemon that is not its service,
// and which the service succeeds.
func (l *life) tryForeground() {
	program := l.program(l.old)
	l.run("systemd-run", "--unit=foreground", program, "run")
	l.await("it protects the machine", func() bool { _, err := l.try(program, "status"); return err == nil })
	l.underKnocks("the package beside another daemon", func() {
		l.expectSaid("systemctl status cfwall", "dpkg", "-i", l.new)
		l.expectJournal("error: cfwall already runs here")
		l.expectProtected()
		l.run("systemctl", "stop", "foreground")
		l.await("the service runs", func() bool { return l.property("cfwall.service", "ActiveState") == "active" })
		l.expectProtected()
	})
}

// tryMasked upgrades while the unit is masked.
func (l *life) tryMasked() {
	l.install(l.old)
	l.underKnocks("an upgrade of a unit that is masked", func() {
		l.run("systemctl", "mask", "cfwall")
		l.run("dpkg", "-i", l.new)
		l.run("systemctl", "stop", "cfwall")
		l.run("systemctl", "unmask", "cfwall")
		l.run("systemctl", "start", "cfwall")
		l.expectProtected()
	})
}

// tryWithoutCapability restarts the daemon where it may not change rules.
func (l *life) tryWithoutCapability() {
	l.install(l.new)
	l.write(l.T, "/etc/systemd/system/cfwall.service.d/none.conf", "[Service]\nAmbientCapabilities=\nCapabilityBoundingSet=\n")
	l.run("systemctl", "daemon-reload")
	l.underKnocks("a start without CAP_NET_ADMIN", func() {
		if _, err := l.try("systemctl", "restart", "cfwall"); err == nil {
			l.Error("the daemon says that it works without CAP_NET_ADMIN")
		}
		l.expectState("failed")
		l.expectJournal("error: no permission to see or change the firewall (CAP_NET_ADMIN is missing)")
	})
}

// tryReadOnly restarts the daemon on a host whose disks are read-only.
func (l *life) tryReadOnly() {
	l.install(l.new)
	for _, dir := range []string{"/etc", "/var"} {
		l.run("mount", "--bind", dir, dir)
		l.run("mount", "-o", "remount,bind,ro", dir)
	}
	l.underKnocks("a restart on disks that are read-only", func() {
		l.run("systemctl", "restart", "cfwall")
		l.expectState("active")
	})
}

func (l *life) expectState(want string) {
	l.Helper()
	if state := l.property("cfwall.service", "ActiveState"); state != want {
		l.Errorf("the service is %s, not %s", state, want)
	}
}

// expectSaid runs a program that ends well, and whose user learns something.
func (l *life) expectSaid(words, name string, args ...string) {
	l.Helper()
	if out := l.run(name, args...); !strings.Contains(out, words) {
		l.Errorf("%s %v does not say %q:\n%s", name, args, words, out)
	}
}

// expectRefused runs a program that does not end well.
func (l *life) expectRefused(words, name string, args ...string) {
	l.Helper()
	if out, err := l.try(name, args...); !strings.Contains(out, words) || !isExit(err) {
		l.Errorf("%s %v: %v, want an error with %q:\n%s", name, args, err, words, out)
	}
}

func isExit(err error) bool { return errors.As(err, new(*exec.ExitError)) }
