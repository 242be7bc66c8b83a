package sshd

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// programs are the names of those that serve SSH. The sslh family passes it on
// from a port that it shares with HTTPS.
var programs = []string{"sshd", "dropbear", "tinysshd", "sslh", "sslh-ev", "sslh-fork", "sslh-select"}

type process struct {
	name string
	id   int
}

// holders finds the sockets that programs of SSH hold, by inode, as far as we
// may look. Of several processes it names the oldest, which started the others.
func holders(root string) map[uint32]process {
	all := make(map[uint32]process)
	entries, _ := os.ReadDir(filepath.Join(root, "/proc"))
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(root, "/proc", e.Name())
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		name := strings.TrimSpace(string(comm))
		if !slices.Contains(programs, name) {
			continue
		}
		for _, inode := range sockets(dir) {
			if p, ok := all[inode]; !ok || id < p.id {
				all[inode] = process{name, id}
			}
		}
	}
	return all
}

// sockets lists the inodes of the sockets of a process: its descriptors are
// links to "socket:[INODE]".
func sockets(dir string) []uint32 {
	var all []uint32
	descriptors, _ := os.ReadDir(filepath.Join(dir, "fd"))
	for _, d := range descriptors {
		target, _ := os.Readlink(filepath.Join(dir, "fd", d.Name()))
		number, ok := strings.CutPrefix(target, "socket:[")
		if inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32); ok && err == nil {
			all = append(all, uint32(inode))
		}
	}
	return all
}

// parent returns the process that started another; 0 if there is none or we
// may not look. It is the fourth word of /proc/PID/stat; the second, the name
// in parentheses, may hold anything (proc_pid_stat(5)).
func parent(root string, pid int) int {
	b, _ := os.ReadFile(filepath.Join(root, "/proc", strconv.Itoa(pid), "stat"))
	words := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(words) < 2 {
		return 0
	}
	id, _ := strconv.Atoi(string(words[1]))
	return id
}

// largest is how much of a file is read: none that is as it should be is larger.
const largest = 1 << 20

// variable returns an environment variable that a process was started with; ""
// if it has none of this name or we may not look.
func variable(root string, pid int, name string) string {
	f, err := os.Open(filepath.Join(root, "/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, largest))
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if value, ok := strings.CutPrefix(string(v), name+"="); ok {
			return value
		}
	}
	return ""
}
