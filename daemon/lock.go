package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/durable"
)

// lock makes sure that one process at a time writes the table and the state.
// It ends with the process, however that ends.
func (p Paths) acquire(who string) (release func(), err error) {
	if err := os.MkdirAll(p.Runtime, 0o755); errors.Is(err, unix.ENOTDIR) {
		return nil, &Refusal{fmt.Errorf("making the runtime directory: %w", err), "remove the file that is in its place, or choose another with --runtime-dir", ExitError}
	} else if err != nil {
		return nil, &Refusal{fmt.Errorf("making the runtime directory: %w", err), "run it as root, or choose another with --runtime-dir", ExitError}
	}
	if err := untrusted(p.Runtime); err != nil {
		return nil, err
	}
	f, err := p.openLock(os.O_RDWR | os.O_CREATE)
	if info, errStat := os.Lstat(p.lock()); errStat == nil && !info.Mode().IsRegular() {
		f.Close() // of a nil file is an error, and no more
		return nil, refuse(ExitError, "remove it: sudo rm -r "+p.lock(), "%s is not a regular file: nothing else belongs there", p.lock())
	}
	if err != nil {
		return nil, &Refusal{fmt.Errorf("opening the lock: %w", err), "run it as root, or choose another directory with --runtime-dir", ExitError}
	}
	if err := lockFile(f); err != nil {
		holder := readHolder(f)
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, refuse(ExitError, "stop it first, or let it do the work: cfwall status",
				"%w: %s holds %s", errRunning, holder, p.lock())
		}
		return nil, fmt.Errorf("locking %s: %w", p.lock(), err)
	}
	if err := errors.Join(f.Truncate(0), writeHolder(f, who)); err != nil {
		f.Close()
		return nil, fmt.Errorf("writing %s: %w", p.lock(), err)
	}
	return func() { f.Close() }, nil
}

// openLock leaves it to the daemon's user, who may have put there what is root's.
func (p Paths) openLock(flags int) (f *os.File, err error) {
	err = durable.AsOwner(p.Runtime, func() error {
		f, err = os.OpenFile(p.lock(), flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		return err
	})
	return f, err
}

var errRunning = errors.New("cfwall already runs here")

// lockPatience is how long to wait for a command that holds the lock: it needs
// it for moments. A daemon keeps it for as long as it runs.
const lockPatience = 3 * time.Second

func lockFile(f *os.File) error {
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) || strings.HasPrefix(readHolder(f), daemonHolder) {
			return err
		}
	}
}

// daemonHolder begins what a daemon writes into the lock.
const daemonHolder = "cfwall run "

func writeHolder(f *os.File, who string) error {
	_, err := fmt.Fprintf(f, "%s\n", kernel.Owner{PID: os.Getpid(), Program: "cfwall " + who, Unit: kernel.UnitOf(os.Getpid())})
	return err
}

// Holder names who changes the table and the state now, such as "cfwall run (pid
// 812, cfwall.service)". It is "" where nobody does for more than moments.
func Holder(p Paths) string {
	f, err := p.openLock(os.O_RDONLY)
	if err != nil {
		return ""
	}
	defer f.Close() // which also gives up the lock
	if err := lockFile(f); !errors.Is(err, unix.EWOULDBLOCK) {
		return ""
	}
	return readHolder(f)
}

// readHolder makes it printable: a daemon that was broken into may have written it.
func readHolder(f io.ReaderAt) string {
	b, _ := io.ReadAll(io.NewSectionReader(f, 0, 200))
	if holder := strings.TrimSpace(string(b)); holder != "" {
		return printableText(holder)
	}
	return "another process"
}
