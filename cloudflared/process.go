package cloudflared

import (
	"fmt"
	"os"
	"strings"

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

// Processes lists the processes of cloudflared; anybody may. The root is the
// directory with proc in it, "/" but in tests.
func Processes(root string) []Process {
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
