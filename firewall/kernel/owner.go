package kernel

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/procfs"
)

// An Owner is the process that a netlink port belongs to, as far as it is known.
type Owner struct {
	Port    uint32
	PID     int    // 0 where it is in another PID namespace, or only root may look
	Program string // its name
	Unit    string // its systemd unit; "" without one
}

// String prints "cfwall (pid 812, cfwall.service)".
func (o Owner) String() string {
	switch {
	case o.PID == 0:
		return fmt.Sprintf("a process that is not known (netlink port %d)", o.Port)
	case o.Unit == "":
		return fmt.Sprintf("%s (pid %d)", o.Program, o.PID)
	default:
		return fmt.Sprintf("%s (pid %d, %s)", o.Program, o.PID, o.Unit)
	}
}

// OwnerAt finds who has a netlink port of netfilter, in the network namespace of
// the thread that calls.
func OwnerAt(port uint32) Owner {
	o := Owner{Port: port}
	inode := inodeOf(port)
	if inode == 0 {
		return o
	}
	for _, pid := range procfs.Processes("/") {
		if slices.Contains(procfs.Sockets("/", pid), inode) {
			o.PID, o.Program, o.Unit = pid, procfs.Name("/", pid), UnitOf(pid)
			return o
		}
	}
	return o
}

// inodeOf finds a netlink socket in the kernel's list: a line "address protocol
// port groups ... inode" for each; 0 where there is none.
func inodeOf(port uint32) uint32 {
	f, err := os.Open("/proc/thread-self/net/netlink")
	if err != nil {
		return 0
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 4 || words[1] != strconv.Itoa(unix.NETLINK_NETFILTER) || words[2] != strconv.FormatUint(uint64(port), 10) {
			continue
		}
		inode, _ := strconv.ParseUint(words[len(words)-1], 10, 32)
		return uint32(inode)
	}
	return 0
}

// UnitOf names the systemd service that a process belongs to, by its control
// group; "" without one.
func UnitOf(pid int) string {
	groups, _ := os.ReadFile(procfs.File("/", pid, "cgroup"))
	for line := range strings.Lines(string(groups)) {
		if unit := filepath.Base(strings.TrimSpace(line)); strings.HasSuffix(unit, ".service") {
			return unit
		}
	}
	return ""
}
