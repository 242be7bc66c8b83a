package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/durable"
)

// untrusted refuses a directory in which other users than root, this one and the
// daemon's decide what the files are: neither is written to such a place, nor
// believed what stands there. A directory that is not there yet is fine.
func untrusted(dir string) error {
	var link, at unix.Stat_t
	err := unix.Lstat(dir, &link)
	if err == nil {
		err = unix.Stat(dir, &at)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && link.Mode&unix.S_IFMT == unix.S_IFLNK:
		return refuse(ExitError, "remove it, or make the directory that it names", "%s is a link to nothing", dir)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking at %s: %w", dir, err)
	case at.Mode&unix.S_IFMT != unix.S_IFDIR:
		return refuse(ExitError, "remove it: nothing else belongs there", "%s is not a directory", dir)
	}
	if stranger := whoElse(link, at); stranger != "" {
		return refuse(ExitError, "look who has been at its files, then: "+ownAgain(dir, link),
			"%s is not used: %s could have put anything there", dir, stranger)
	}
	return nil
}

// ownAgain gives a directory, or the link to it, back to whom it belongs.
func ownAgain(dir string, link unix.Stat_t) string {
	if dir == DefaultPaths.State && link.Mode&unix.S_IFMT == unix.S_IFDIR {
		return mendState(dir)
	}
	return fmt.Sprintf("sudo chown -h %[2]s %[1]s && sudo chmod go-w %[1]s/, and restart cfwall", dir, rightfulOwner())
}

// whoElse names somebody else who may change a directory, or where a link leads.
func whoElse(link, at unix.Stat_t) string {
	for _, s := range []unix.Stat_t{link, at} {
		if !slices.Contains([]int{0, os.Geteuid()}, int(s.Uid)) && !isDaemon(s.Uid) {
			return fmt.Sprintf("user %d, who owns it,", s.Uid)
		}
	}
	switch {
	case at.Mode&0o002 != 0:
		return "every user"
	case at.Mode&0o020 != 0 && !slices.Contains([]int{0, os.Getegid()}, int(at.Gid)):
		return fmt.Sprintf("group %d", at.Gid)
	}
	return ""
}

// inState does work with the files of the state directory, as the daemon's user
// where that is root's to do.
func (p Paths) inState(work func() error) error {
	if err := untrusted(p.State); err != nil {
		return err
	}
	return durable.AsOwner(p.State, work)
}

// makeState makes the state directory. Where root does, for a command that works
// without the daemon, it is the daemon's all the same.
func (p Paths) makeState() error {
	if _, err := os.Stat(p.State); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := (durable.OS{}).Mkdir(p.State); err != nil {
		return refuse(ExitError, mendState(p.State), "making the state directory: %w", err)
	}
	u, err := user.Lookup(account)
	if err != nil || os.Geteuid() != 0 {
		return nil
	}
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	return errors.Join(errUID, errGID, os.Chown(p.State, uid, gid))
}
