package sshd

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cfwall/cfwall/internal/procfs"
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
	for _, id := range procfs.Processes(root) {
		name := procfs.Name(root, id)
		if !slices.Contains(programs, name) {
			continue
		}
		for _, inode := range procfs.Sockets(root, id) {
			if p, ok := all[inode]; !ok || id < p.id {
				all[inode] = process{name, id}
			}
		}
	}
	return all
}

// atLogin finds the sockets of connections whose client has not logged in yet:
// those of the process that OpenSSH has for it until then, as far as we may
// look. Its title says so (sshd.c, sshd-auth.c): "sshd: unknown [net]".
func atLogin(root string) map[uint32]bool {
	all := make(map[uint32]bool)
	for _, id := range procfs.Processes(root) {
		name := procfs.Name(root, id)
		if !strings.HasPrefix(name, "sshd") {
			continue
		}
		title, _ := os.ReadFile(procfs.File(root, id, "cmdline"))
		if name != "sshd-auth" && !bytes.Contains(title, []byte("[net]")) && !bytes.Contains(title, []byte("[accepted]")) {
			continue
		}
		for _, inode := range procfs.Sockets(root, id) {
			all[inode] = true
		}
	}
	return all
}

// parent returns the process that started another; 0 if there is none or we
// may not look. It is the fourth word of /proc/PID/stat; the second, the name
// in parentheses, may hold anything (proc_pid_stat(5)).
func parent(root string, pid int) int { return int(statWord(root, pid, 4)) }

// started is how long after the host's start a process was started, suspended or
// not: the 22nd word, in the hundredths of a second that every Linux tells
// programs; 0 if we may not look.
func started(root string, pid int) time.Duration {
	return time.Duration(statWord(root, pid, 22)) * time.Second / 100
}

// statWord returns a number behind the name, counted as proc_pid_stat(5) does.
func statWord(root string, pid, n int) int64 {
	b, _ := os.ReadFile(procfs.File(root, pid, "stat"))
	words := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(words) <= n-3 {
		return 0
	}
	number, _ := strconv.ParseInt(string(words[n-3]), 10, 64)
	return number
}

// largest is how much of a file is read: none that is as it should be is larger.
const largest = 1 << 20

// variable returns an environment variable that a process was started with; ""
// if it has none of this name or we may not look.
func variable(root string, pid int, name string) string {
	f, err := os.Open(procfs.File(root, pid, "environ"))
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
