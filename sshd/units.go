package sshd

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cfwall/cfwall/systemd"
)

// socketUnits are those by which systemd listens for sshd, dropbear or tinysshd.
var socketUnits = []string{"ssh.socket", "sshd.socket", "dropbear.socket", "tinysshd.socket"}

// serviceUnits are those in which servers run, as patterns.
var serviceUnits = []string{"ssh.service", "sshd.service", "ssh@*.service", "sshd@*.service",
	"dropbear.service", "dropbear@*.service", "sslh.service", "sslh@*.service"}

// cgroups finds the control groups of those units, by inode, which is what the
// kernel tells of a socket (INET_DIAG_CGROUP_ID, Linux 5.8). Everybody may see
// them, unlike the descriptors of a process. Instances of a template share a
// slice of their own.
func cgroups(root string) map[uint64]string {
	all := make(map[uint64]string)
	for _, unit := range slices.Concat(serviceUnits, socketUnits) {
		for _, above := range []string{"system.slice", "system.slice/*.slice"} {
			dirs, _ := filepath.Glob(filepath.Join(root, "/sys/fs/cgroup", above, unit))
			for _, dir := range dirs {
				if info, err := os.Stat(dir); err == nil {
					all[info.Sys().(*syscall.Stat_t).Ino] = filepath.Base(dir)
				}
			}
		}
	}
	return all
}

// configuration lists where SSH is set up to be served, by sshd itself or by
// systemd for it.
func configuration(root string) ([]Server, error) {
	all, err := configuredServers(root)
	errs := []error{err}
	for _, name := range socketUnits {
		unit, err := systemd.ReadUnit(root, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, stream := range unit.Values("Socket", "ListenStream") {
			if address, ok := parseStream(stream); ok {
				all = append(all, Server{Address: address, Program: name, Configured: true})
			}
		}
	}
	return all, errors.Join(errs...)
}

// startsAtBoot is false of a unit that is not enabled. Without systemd's own
// directory nothing tells whether sshd starts: it is taken to.
func startsAtBoot(root string, s Server) bool {
	if strings.HasSuffix(s.Program, ".socket") {
		return enabled(root, s.Program)
	}
	_, err := os.Stat(filepath.Join(root, unitLinks))
	return err != nil || enabled(root, "ssh.service") || enabled(root, "sshd.service") // of Debian, and of others
}

const unitLinks = "/etc/systemd/system"

func enabled(root, unit string) bool {
	links, _ := filepath.Glob(filepath.Join(root, unitLinks, "*.wants", unit))
	return len(links) > 0
}

// parseStream reads an address of TCP as ListenStream= has it
// (systemd.socket(5)): "22", "192.0.2.1:22" or "[2001:db8::1]:22", with an
// interface after a "%". Other streams are paths, or those of virtual machines.
func parseStream(stream string) (netip.AddrPort, bool) {
	stream, _, _ = strings.Cut(stream, "%")
	if port, err := strconv.ParseUint(stream, 10, 16); err == nil {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port)), port != 0
	}
	a, err := netip.ParseAddrPort(stream)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), err == nil && a.Port() != 0
}
