package cloudflared

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
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
	for _, pid := range pids(root) {
		p := Process{PID: pid}
		if comm(root, pid) == program && p.read(root) == nil {
			all = append(all, p)
		}
	}
	return all
}

// read fails where the process has ended.
func (p *Process) read(root string) error {
	status, err := os.ReadFile(procFile(root, p.PID, "status"))
	if err != nil {
		return err
	}
	_, ids, _ := strings.Cut(string(status), "\nUid:")
	var realUID uint32
	if _, err := fmt.Sscan(ids, &realUID, &p.UID); err != nil {
		return fmt.Errorf("reading the user of process %d: %w", p.PID, err)
	}
	groups, _ := os.ReadFile(procFile(root, p.PID, "cgroup"))
	for line := range strings.Lines(string(groups)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			p.Cgroup = strings.TrimSuffix(path, "\n")
		}
	}
	return nil
}

func pids(root string) []int {
	entries, _ := os.ReadDir(filepath.Join(root, "proc"))
	var all []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

func procFile(root string, pid int, name string) string {
	return filepath.Join(root, "proc", strconv.Itoa(pid), name)
}

// comm is the name of a process, "" where it has ended. A program chooses its
// own name, so what a terminal would not print is replaced.
func comm(root string, pid int) string {
	b, _ := os.ReadFile(procFile(root, pid, "comm"))
	return printable(strings.TrimSuffix(string(b), "\n"))
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// holders finds the processes that hold sockets, named by inode, as far as we
// may look.
func holders(root string, inodes map[uint32]bool) map[uint32]int {
	found := make(map[uint32]int)
	for _, pid := range pids(root) {
		if len(found) == len(inodes) {
			break
		}
		descriptors, _ := os.ReadDir(procFile(root, pid, "fd"))
		for _, d := range descriptors {
			target, _ := os.Readlink(filepath.Join(procFile(root, pid, "fd"), d.Name()))
			var inode uint32
			if n, _ := fmt.Sscanf(target, "socket:[%d]", &inode); n == 1 && inodes[inode] {
				found[inode] = pid
			}
		}
	}
	return found
}
