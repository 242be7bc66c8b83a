package systemdtest

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The daemon is not root: it sees neither whose a socket is nor what only root
// may read of sshd's configuration. No config locks out who comes by SSH all the
// same, wherever that is served.
func TestNobodyIsLockedOutOfSSH(t *testing.T) {
	onEach(t, func(t *testing.T, suite string) {
		l := newLife(t, suite)
		l.install(l.new)
		l.write(t, "/srv/sshd.pl", poser)
		l.write(t, "/etc/systemd/system/other.service", "[Service]\nSlice=critical.slice\nExecStart=/usr/bin/perl /srv/sshd.pl 2222\n")
		l.run("systemctl", "daemon-reload")
		l.run("systemctl", "start", "other")
		l.write(t, configFile, "[inbound]\npolicy = \"drop\"\nopen = [\"22/tcp\"]\n")
		const lockout = "port 2222 is where SSH listens"
		l.await("somebody listens", func() bool { _, err := l.try("cfwall", "check"); return exitCode(err) == 2 })
		l.expectRefused(lockout, "cfwall", "reload")
		l.expectRefused("", "systemctl", "reload", "cfwall")
		l.expectJournal(lockout)
		l.run("systemctl", "restart", "cfwall")
		l.expectRefused("ssh-left-open", "cfwall", "status")

		// At a boot nobody listens yet, and the file is root's alone.
		l.write(t, "/usr/sbin/sshd", "")
		l.write(t, "/etc/ssh/sshd_config", "Port 2223\n")
		check(t, unix.Chmod(filepath.Join(l.root, "/etc/ssh/sshd_config"), 0o600))
		l.write(t, "/etc/systemd/system/ssh.service", "[Service]\nExecStart=/bin/sleep 1h\n[Install]\nWantedBy=multi-user.target\n")
		l.run("systemctl", "enable", "ssh.service")
		l.shutDown()
		m := boot(t, l.disk, newSite(t))
		m.await("it leaves open where SSH will be", func() bool {
			out, err := m.try("cfwall", "status")
			return exitCode(err) == 3 && strings.Contains(out, "ssh-left-open") && strings.Contains(out, "2223/tcp")
		})
	})
}

// poser listens at a port under the name of sshd.
const poser = `use Socket;
$0 = "sshd";
my $s;
socket($s, PF_INET, SOCK_STREAM, 0) && bind($s, sockaddr_in($ARGV[0], INADDR_ANY)) && listen($s, 5) or die $!;
while (accept(my $c, $s)) { close $c }
`
