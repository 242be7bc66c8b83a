package systemdtest

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Whatever becomes of an installed cfwall, nobody gets in, and it is said once
// what is wrong.
func TestTroubles(t *testing.T) {
	onEach(t, func(t *testing.T, suite string) {
		l := newLife(t, suite)
		l.install(l.old)
		for _, trouble := range troubles {
			l.underKnocks(trouble.name, func() { trouble.happens(l) })
			l.expectProtected()
		}
	})
}

var troubles = []struct {
	name    string
	happens func(*life)
}{
	{"half a package", func(l *life) {
		l.run("sh", "-c", "head -c 2000000 "+l.new+" >/srv/half.deb")
		l.expectRefused("", "dpkg", "-i", "/srv/half.deb")
		l.expectSaid("1.0.0 installed", "dpkg-query", "-W", "-f", "${Version} ${db:Status-Status}", "cfwall")
		l.expectVersion(l.old)
	}},
	{"a start that cannot work is not tried for ever", func(l *life) {
		const file = "/run/systemd/system/cfwall.service.d/none.conf"
		l.run("sh", "-c", "mkdir -p ${0%/*} && printf '[Service]\\nAmbientCapabilities=\\nCapabilityBoundingSet=\\n' >$0 && systemctl daemon-reload", file)
		l.expectRefused("Job for cfwall.service failed", "systemctl", "restart", "cfwall")
		time.Sleep(3 * time.Second) // longer than RestartSec=
		l.run("journalctl", "--sync")
		errs := l.run("journalctl", "-u", "cfwall", "-p", "err", "-o", "cat", "-n", "20")
		if strings.Count(errs, "error: ") != 1 || !strings.Contains(errs, "\nhint: run it as root") {
			l.Errorf("the journal does not say it once, and what to do:\n%s", errs)
		}
		l.run("sh", "-c", "rm $0 && systemctl daemon-reload && systemctl start cfwall", file)
	}},
	{"a config with a key of another version", func(l *life) {
		l.run("sh", "-c", "echo 'web.ports = [80]' >>"+configFile)
		l.run("dpkg", "-i", "--force-confold", l.new)
		l.await("the last config that worked is in force", func() bool {
			out, err := l.try("cfwall", "status")
			return exitCode(err) == 3 && strings.Contains(out, "config-refused") && strings.Contains(out, "web.ports")
		})
		l.run("sh", "-c", "sed -i '$d' "+configFile+" && systemctl reload cfwall")
	}},
	{"commands of root without the daemon", func(l *life) {
		const guest = "203.0.113.9"
		l.run("systemctl", "stop", "cfwall")
		l.run("cfwall", "allow", guest, "--for", "1h")
		l.run("cfwall", "apply")
		l.run("systemctl", "start", "cfwall")
		l.expectSaid(guest, "cfwall", "allow", "--list")
		l.run("cfwall", "allow", "--remove", guest)
	}},
	{"a state directory that root has made", func(l *life) {
		l.run("systemctl", "stop", "cfwall")
		l.run("sh", "-c", "rm -r /var/lib/cfwall && cfwall apply && systemctl start cfwall")
		l.await("the list is fetched again", func() bool { _, err := l.try("cfwall", "ranges", "fetch"); return err == nil })
	}},
	{"a full disk", func(l *life) {
		l.run("systemctl", "stop", "cfwall")
		l.run("mount", "-t", "tmpfs", "-o", "size=4k,mode=777", "full", "/mnt")
		l.run("sh", "-c", "head -c 8192 /dev/zero >/mnt/full || mkdir -p /mnt/state && mount --bind /mnt/state /var/lib/cfwall && chown cfwall: /var/lib/cfwall")
		l.run("systemctl", "start", "cfwall")
		if out, err := l.try("cfwall", "status"); exitCode(err) != 3 || !strings.Contains(out, "no space left") {
			l.Errorf("status does not say it: %v\n%s", err, out)
		}
		l.run("systemctl", "stop", "cfwall")
		l.run("umount", "/var/lib/cfwall")
		l.run("systemctl", "start", "cfwall")
	}},
	{"a member of the group, and another user", func(l *life) {
		l.run("useradd", "--groups", "cfwall", "member")
		l.run("useradd", "stranger")
		l.expectSaid("PROTECTED", "setpriv", "--reuid=member", "--regid=member", "--init-groups", "cfwall", "status")
		l.expectRefused("error: only root may do that", "setpriv", "--reuid=member", "--regid=member", "--init-groups", "cfwall", "off")
		l.expectRefused("permission denied", "setpriv", "--reuid=stranger", "--regid=stranger", "--init-groups", "cfwall", "status")
	}},
	{"an event is explained", func(l *life) {
		l.expectRefused("", "sh", "-c", "echo x >>"+configFile+"; systemctl reload cfwall")
		l.run("sh", "-c", "sed -i '$d' "+configFile+" && systemctl reload cfwall && journalctl --sync")
		l.expectSaid("Subject: A config was refused", "journalctl", "-u", "cfwall", "-x", "CFWALL_EVENT=config-refused")
	}},
}

// With a /var that cannot be mounted it is in force before the network all the
// same.
func TestBootWithoutVar(t *testing.T) {
	onEach(t, func(t *testing.T, suite string) {
		d := newDisk(t, suite)
		d.useEarlyNetwork(t)
		d.installCfwall(t)
		d.write(t, "/etc/systemd/system/var.mount", "[Unit]\nDefaultDependencies=no\nBefore=local-fs.target\n[Mount]\nWhat=none\nWhere=/var\nType=nosuchtype\n[Install]\nWantedBy=local-fs.target\n")
		d.enable(t, "var.mount")
		sealedBoot(t, d, (*machine).shutDown)
	})
}

func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return 0
}
