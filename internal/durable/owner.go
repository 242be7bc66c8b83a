package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// AsOwner does work as the user whom a directory belongs to, where root works in
// that of another: what is made there is that user's, and no link put in the way
// leads root to where that user could not go alone. It changes nothing for other
// users, nor where the directory is root's. One that is not there yet counts as the
// nearest above it. The work must stay in its goroutine.
func AsOwner(dir string, work func() error) error {
	if os.Geteuid() != 0 {
		return work() // under systemd the calls below are refused
	}
	owner, err := ownerOf(dir)
	if err != nil {
		return err
	}
	if owner.Uid == 0 {
		return work()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends here, and nothing else ever runs as that user
		if err := become(int(owner.Uid), int(owner.Gid)); err != nil {
			done <- fmt.Errorf("working in %s as user %d: %w", dir, owner.Uid, err)
			return
		}
		done <- work()
	}()
	return <-done
}

func ownerOf(dir string) (*syscall.Stat_t, error) {
	info, err := os.Stat(dir)
	for errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		info, err = os.Stat(dir)
	}
	if err != nil {
		return nil, err
	}
	return info.Sys().(*syscall.Stat_t), nil
}

// become has the files that this thread uses be used by another user. The kernel
// takes root's power over files from it, but would leave it root's groups.
func become(uid, gid int) error {
	if _, _, errno := syscall.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 { // unix.Setgroups is for all threads
		return fmt.Errorf("leaving the groups: %w", errno)
	}
	if err := errors.Join(unix.Setfsgid(gid), unix.Setfsuid(uid)); err != nil {
		return err
	}
	nowGID, _ := unix.SetfsgidRetGid(-1) // which changes nothing: they tell of no failure but by this
	nowUID, _ := unix.SetfsuidRetUid(-1)
	if nowUID != uid || nowGID != gid {
		return unix.EPERM
	}
	return nil
}
