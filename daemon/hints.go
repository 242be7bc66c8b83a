package daemon

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"strconv"

	"github.com/cfwall/cfwall/systemd"
)

// What helps depends on whether cfwall is a service of this host.

// HowToStart is the command that starts the daemon here.
func HowToStart() string {
	if _, err := systemd.ReadUnit("", "cfwall.service"); err == nil && systemd.Running() {
		return "sudo systemctl start cfwall"
	}
	return "cfwall run"
}

// breakGlass opens the ports where nothing of cfwall's works.
const breakGlass = "sudo systemctl stop cfwall && sudo nft delete table inet cfwall"

// breakHanging does so where the daemon does not even end when it is told to.
const breakHanging = "sudo systemctl kill -s KILL cfwall; sudo systemctl stop cfwall; sudo nft delete table inet cfwall"

// mendState makes the state directory, and gives it and what is in it to the
// daemon. A directory that is made later is not seen by one that runs: its sandbox
// is made at its start.
func mendState(dir string) string {
	const restart = " && sudo systemctl restart cfwall"
	for _, file := range []string{"/usr/lib/tmpfiles.d/cfwall.conf", "/usr/local/lib/tmpfiles.d/cfwall.conf"} {
		if _, err := os.Stat(file); err == nil && dir == DefaultPaths.State {
			return "sudo systemd-tmpfiles --create cfwall.conf" + restart
		}
	}
	return "sudo mkdir -p " + dir + " && sudo chown -R " + rightfulOwner() + " " + dir + restart
}

// permissionCure helps who may not use a file: the daemon gets its own back, and
// others are not meant to.
func permissionCure(dir string) string {
	if isDaemon(uint32(os.Geteuid())) {
		return "give the daemon its files back: " + mendState(dir)
	}
	return "run it as root"
}

func isGone(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// isDaemon reports whether it is the user whom systemd runs the daemon as. What
// that one writes counts for everybody: who reads it, reads what is in force.
func isDaemon(uid uint32) bool {
	u, err := user.Lookup(account)
	return err == nil && u.Uid == strconv.FormatUint(uint64(uid), 10)
}

func rightfulOwner() string {
	if _, err := user.Lookup(account); err == nil {
		return account + ":" + account
	}
	return "root:root"
}
