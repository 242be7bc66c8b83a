package systemdtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// An escape is something that the daemon never does, and that whoever has taken
// it over would try.
type escape struct {
	name string
	try  func() error
	root bool // root may on the same machine, outside of the sandbox: it was tried in earnest
}

// escapes are tried by this program in the daemon's place.
var escapes = []escape{
	{"run another program", runs("/bin/true"), true},
	{"run a program of its own in its state directory", runsCopyIn("/var/lib/cfwall"), true},
	{"run a program of its own in its runtime directory", runsCopyIn("/run/cfwall"), true},
	{"run a program from memory alone", func() error { _, err := unix.MemfdCreate("probe", 0); return err }, true},
	{"write its own config", write("/etc/cfwall/probe"), true},
	{"write below /usr", write("/usr/probe"), true},
	{"write below /var", write("/var/lib/probe"), true},
	{"write to /run", write("/run/probe"), true},
	{"write to /run/lock", write("/run/lock/probe"), true},
	{"write to /tmp", write("/tmp/probe"), true},
	{"write to /var/tmp", write("/var/tmp/probe"), true},
	{"write to /dev/shm", write("/dev/shm/probe"), true},
	{"write to a control group", func() error { return os.Mkdir("/sys/fs/cgroup/probe", 0o755) }, true},
	{"switch forwarding on", open("/proc/sys/net/ipv4/ip_forward", unix.O_WRONLY), false},
	{"read the home of a user", list("/home/user"), true},
	{"read the home of root", list("/root"), true},
	{"read password hashes", open("/etc/shadow", unix.O_RDONLY), true},
	{"look at another process", open("/proc/1/status", unix.O_RDONLY), true},
	{"read the environment of another process", open("/proc/1/environ", unix.O_RDONLY), true},
	{"signal another process", func() error { return unix.Kill(1, 0) }, true},
	{"trace another process", func() error { return let(call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1<<30)(), unix.ESRCH) }, true},
	{"read the memory of another process", readMemory, true},
	{"open a raw IP socket", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), true},
	{"open a packet socket", socket(unix.AF_PACKET, unix.SOCK_RAW, 0), true},
	{"open a socket of the kernel's cryptography", socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0), false},
	{"serve at a low port", bindLow, true},
	{"make a user namespace", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }, false}, // this program has threads
	{"make a network namespace", func() error { return unix.Unshare(unix.CLONE_NEWNET) }, true},
	{"enter a namespace", enterNamespace, true},
	{"mount a file system", mount, true},
	{"become root", func() error { return unix.Setresuid(-1, 0, -1) }, true},
	{"give a file away", func() error { return os.Chown("/run/cfwall", 1, 1) }, true},
	{"make a file that changes the user", setUID, true},
	{"make a device", func() error { return unix.Mknod("/run/cfwall/device", unix.S_IFCHR|0o600, 0x0101) }, false},
	{"read the memory of the machine", open("/dev/mem", unix.O_RDONLY), false},
	{"read the log of the kernel", open("/dev/kmsg", unix.O_RDONLY), false},
	{"load a module", func() error { return unix.InitModule([]byte("no module"), "") }, false},
	{"load a BPF program", call(unix.SYS_BPF, 0, 0, 0), false},
	{"get round the filter with io_uring", func() error { return let(call(unix.SYS_IO_URING_SETUP, 1, 0)(), unix.EFAULT) }, true},
	{"make memory that it can write and run", writeAndRun, true},
	{"run memory that it has written", runWritten, true},
	{"rename the machine", func() error { return unix.Sethostname([]byte("web")) }, true},
	{"use keys of the kernel", func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, true); return err }, false},
	{"run before all others", func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -20) }, true},
	{"lose the random addresses of its memory", call(unix.SYS_PERSONALITY, addrNoRandomize), true},
	{"watch the processor", func() error { return let(call(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0)(), unix.EFAULT) }, false},
	{"change its root directory", func() error { return unix.Chroot("/run/cfwall") }, true}, // what comes after it would be tried there
}

// ways are what the daemon needs: a sandbox that refused all would prove nothing.
var ways = []escape{
	{"write to its state directory", write("/var/lib/cfwall/probe"), true},
	{"write to its runtime directory", write("/run/cfwall/probe"), true},
	{"read its config", list("/etc/cfwall"), true},
	{"change rules", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER), true},
	{"fetch over IPv4", socket(unix.AF_INET, unix.SOCK_STREAM, 0), true},
	{"fetch over IPv6", socket(unix.AF_INET6, unix.SOCK_STREAM, 0), true},
	{"see who forwards", open("/proc/sys/net/ipv4/ip_forward", unix.O_RDONLY), true},
}

// tryAll prints a line for each: its name, and what came of it.
func tryAll() {
	for _, e := range append(ways, escapes...) {
		result := "done"
		if err := e.try(); err != nil {
			result = "refused: " + err.Error()
		}
		fmt.Printf("%s: %s\n", e.name, result)
	}
}

func write(path string) func() error {
	return func() error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Close(), os.Remove(path))
	}
}

func list(dir string) func() error {
	return func() error { _, err := os.ReadDir(dir); return err }
}

func open(path string, flags int) func() error {
	return func() error {
		fd, err := unix.Open(path, flags, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}
}

func socket(family, kind, protocol int) func() error {
	return func() error {
		fd, err := unix.Socket(family, kind, protocol)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}
}

func call(number uintptr, args ...uintptr) func() error {
	return func() error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}
}

// let takes a complaint about an argument for success: the kernel has let the call in.
func let(err, complaint error) error {
	if errors.Is(err, complaint) {
		return nil
	}
	return err
}

// runs asks the kernel whether a program could be run. To run it would need other
// calls, whose refusal must not count as that of this one.
func runs(path string) func() error {
	return func() error { return unix.Access(path, unix.X_OK) }
}

func runsCopyIn(dir string) func() error {
	return func() error {
		path := filepath.Join(dir, "copy")
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			return nil // it could not even be tried: that must not count as refused
		}
		defer os.Remove(path)
		return runs(path)()
	}
}

func readMemory() error {
	var b [8]byte
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	_, err := unix.ProcessVMReadv(1, local, []unix.RemoteIovec{{Base: 4096, Len: len(b)}}, 0)
	return let(err, unix.EFAULT)
}

func mount() error {
	const dir = "/run/cfwall"
	if err := unix.Mount("probe", dir, "tmpfs", 0, ""); err != nil {
		return err
	}
	return unix.Unmount(dir, 0)
}

func bindLow() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil // that is a way it needs
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet4{Port: 81})
}

func enterNamespace() error {
	fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	return unix.Setns(fd, unix.CLONE_NEWNET)
}

func setUID() error {
	const path = "/run/cfwall/setuid"
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil
	}
	defer os.Remove(path)
	return unix.Chmod(path, 0o4755)
}

func writeAndRun() error {
	_, err := unix.Mmap(-1, 0, 4096, unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
	return err
}

func runWritten() error {
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil
	}
	return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
}

const addrNoRandomize = 0x0040000 // personality(2)
