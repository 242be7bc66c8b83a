package cloudflared

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/procfs"
)

// A Process is a program that runs under the name of cloudflared.
type Process struct {
	PID int    `json:"pid"`
	UID uint32 `json:"uid"` // the user that its sockets belong to
	// Cgroup is the path of its control group, such as
	// "/system.slice/cloudflared.service"; "" where there is only version 1 of them.
	Cgroup string `json:"cgroup,omitempty"`
}

// program is what the kernel calls cloudflared.
const program = "cloudflared"

// Running lists the processes of cloudflared. Where systemd hides those of other
// users from the daemon (ProtectProc=), it lists the units of cloudflared that
// hold sockets.
func Running() []Process {
	const root = "/"
	if all := processes(root); len(all) > 0 {
		return all
	}
	listeners, _ := kernel.Listeners() // without them there is nothing to say
	return units(root, listeners)
}

// processes reads them below root, the directory with proc in it.
func processes(root string) []Process {
	var all []Process
	for _, pid := range procfs.Processes(root) {
		p := Process{PID: pid}
		if procfs.Name(root, pid) == program && p.read(root) == nil {
			all = append(all, p)
		}
	}
	return all
}

// read fails where the process has ended.
func (p *Process) read(root string) error {
	status, err := os.ReadFile(procfs.File(root, p.PID, "status"))
	if err != nil {
		return err
	}
	_, ids, _ := strings.Cut(string(status), "\nUid:")
	var realUID uint32
	if _, err := fmt.Sscan(ids, &realUID, &p.UID); err != nil {
		return fmt.Errorf("reading the user of process %d: %w", p.PID, err)
	}
	groups, _ := os.ReadFile(procfs.File(root, p.PID, "cgroup"))
	for line := range strings.Lines(string(groups)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			p.Cgroup = strings.TrimSuffix(path, "\n")
		}
	}
	return nil
}

// units lists the services of cloudflared by their control groups, which everybody
// may see, and which the kernel tells of each socket.
func units(root string, listeners []kernel.Listener) []Process {
	const groups = "/sys/fs/cgroup"
	var all []Process
	for _, above := range []string{"system.slice", "system.slice/*.slice"} {
		dirs, _ := filepath.Glob(filepath.Join(root, groups, above, "cloudflared*.service"))
		for _, dir := range dirs {
			info, err := os.Stat(dir)
			if err != nil {
				continue
			}
			inode := info.Sys().(*syscall.Stat_t).Ino
			i := slices.IndexFunc(listeners, func(l kernel.Listener) bool { return l.Cgroup == inode })
			if i < 0 {
				continue
			}
			p := Process{UID: listeners[i].UID, Cgroup: strings.TrimPrefix(dir, filepath.Join(root, groups))}
			first, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			_, _ = fmt.Sscan(string(first), &p.PID) // 0: it is ending
			all = append(all, p)
		}
	}
	return all
}

// holders finds the processes that hold sockets, named by inode, as far as we
// may look.
func holders(root string, inodes map[uint32]bool) map[uint32]int {
	found := make(map[uint32]int)
	for _, pid := range procfs.Processes(root) {
		if len(found) == len(inodes) {
			break
		}
		for _, inode := range procfs.Sockets(root, pid) {
			if inodes[inode] {
				found[inode] = pid
			}
		}
	}
	return found
}
