package daemon

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Unreadable refuses a config that the service could not read, which is not root:
// it would work with another policy. It says nothing about one that is not there.
func Unreadable(file string) error {
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		real = file // whoever may not follow the link is the service itself
	}
	if hidden := hiddenBy(real); hidden != "" {
		return refuse(ExitError, fmt.Sprintf("have it elsewhere: sudo cp --remove-destination %s %s", real, file),
			"the daemon, which is not root, could not read %s: its unit hides %s from it", file, hidden)
	}
	for _, path := range slices.Concat(above(file), above(real), []string{real}) {
		if info, err := os.Stat(path); err == nil && !letsIn(info) {
			return refuse(ExitError, letInCommand(path, info), "the daemon, which is not root, could not read %s", file)
		}
	}
	return nil
}

// hiddenBy is the directory that the unit hides, if a path is in one.
func hiddenBy(path string) string {
	for _, dir := range []string{"/root", "/home", "/run/user", "/tmp", "/var/tmp", "/boot"} {
		if strings.HasPrefix(path, dir+"/") {
			return dir
		}
	}
	return ""
}

// above lists the directories above a path, the highest first.
func above(path string) (dirs []string) {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		dirs = append([]string{dir}, dirs...)
		if dir == filepath.Dir(dir) {
			return dirs
		}
	}
}

// letsIn reports whether a file may be read, or a directory be passed, by the user
// of the daemon, who may not be there yet.
func letsIn(info fs.FileInfo) bool {
	of, shift := info.Sys().(*syscall.Stat_t), 0
	uid, groups := serviceUser()
	switch {
	case uid == strconv.FormatUint(uint64(of.Uid), 10):
		shift = 6
	case slices.Contains(groups, strconv.FormatUint(uint64(of.Gid), 10)):
		shift = 3
	}
	return info.Mode().Perm()>>shift&needed(info) != 0
}

// needed is the bit for others that lets them in.
func needed(info fs.FileInfo) fs.FileMode {
	if info.IsDir() {
		return 0o1
	}
	return 0o4
}

// hasService reports whether the daemon has a user of its own here.
func hasService() bool {
	_, err := user.Lookup(account)
	return err == nil
}

func serviceUser() (uid string, groups []string) {
	if g, err := user.LookupGroup(account); err == nil {
		groups = append(groups, g.Gid)
	}
	if u, err := user.Lookup(account); err == nil {
		uid = u.Uid
		more, _ := u.GroupIds()
		groups = append(groups, more...)
	}
	return uid, groups
}

// letInCommand is what lets the daemon in, and nobody else.
func letInCommand(path string, info fs.FileInfo) string {
	command := fmt.Sprintf("sudo chgrp %s %[2]s && sudo chmod %[3]o %[2]s", account, path, info.Mode().Perm()|needed(info)<<3)
	if _, err := user.LookupGroup(account); err != nil {
		return "sudo groupadd --system " + account + " && " + command
	}
	return command
}
