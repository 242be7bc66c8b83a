// Package procfs reads what the kernel tells of processes, below /proc.
package procfs

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// File is the path of a file of a process. The root is the directory with proc
// in it: "/", or "", but in tests.
func File(root string, pid int, name string) string {
	return filepath.Join(root, "/proc", strconv.Itoa(pid), name)
}

// Processes lists the processes by their IDs, as text sorts them.
func Processes(root string) []int {
	entries, _ := os.ReadDir(filepath.Join(root, "/proc"))
	var all []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// Name is that of the program that a process runs, "" where it has ended. A
// program chooses its own name, see Printable.
func Name(root string, pid int) string {
	b, _ := os.ReadFile(File(root, pid, "comm"))
	return Printable(strings.TrimSuffix(string(b), "\n"))
}

// Printable replaces what a terminal would not print.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// Sockets lists the inodes of the sockets that a process holds, as far as we may
// look: its descriptors are links to "socket:[INODE]".
func Sockets(root string, pid int) []uint32 {
	descriptors, _ := os.ReadDir(File(root, pid, "fd"))
	var all []uint32
	for _, d := range descriptors {
		target, _ := os.Readlink(filepath.Join(File(root, pid, "fd"), d.Name()))
		number, ok := strings.CutPrefix(target, "socket:[")
		if inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32); ok && err == nil {
			all = append(all, uint32(inode))
		}
	}
	return all
}
