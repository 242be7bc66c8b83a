package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// marker is set in the environment of the process inside the lab. Its value
// is the network namespace outside, so that the inside can prove it has left.
const marker = "CFWALL_LAB"

// tally names a file that gets one line "1 NAME" for each kernel test.
const tally = "CFWALL_KERNEL_COUNT"

// Main runs a package's tests inside Run:
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
func Main(m interface{ Run() int }) int { return Run(m.Run) }

// Run starts this program again in network and mount namespaces of its own,
// calls f there, and returns its exit code. Where the kernel refuses, it
// says so and returns 1: rules must never be tried on the machine itself.
func Run(f func() int) int {
	outside, inside := os.LookupEnv(marker)
	if !inside {
		return startInside()
	}
	if err := settle(outside); err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
		return 1
	}
	return f()
}

// Kernel counts t as a test on the real kernel: it appends a line "1 NAME"
// to the file that the environment variable CFWALL_KERNEL_COUNT names, if any.
func Kernel(t interface {
	T
	Name() string
}) {
	t.Helper()
	name := os.Getenv(tally)
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatalf("counting the kernel test: %v", err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "1 %s\n", t.Name()); err != nil {
		t.Fatalf("counting the kernel test: %v", err)
	}
}

// Unprivileged skips a test that needs root in the first user namespace. Where
// the environment sets CI it fails instead: there a test that did not run
// proves nothing.
func Unprivileged(t interface {
	T
	Skipf(format string, args ...any)
}, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("in CI no test may be skipped: %s", why)
	}
	t.Skipf("needs root: %s", why)
}

func startInside() int {
	outside, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		fmt.Fprintf(os.Stderr, "lab: reading the network namespace: %v\n", err)
		return 1
	}
	// By this name the program starts even where its directory is closed
	// to this user, as the build directory of another user's `go test` is.
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), marker+"="+outside)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = namespaces()

	runtime.LockOSThread() // Pdeathsig comes when the thread ends, not the process
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode()
	case errors.As(err, &exit):
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
	default:
		fmt.Fprintf(os.Stderr, "lab: starting in new namespaces: %v (needs root with CAP_SYS_ADMIN, or a kernel that lets users make user namespaces)\n", err)
	}
	return 1
}

// namespaces leaves the user namespace alone for root: only root of the first
// one may exceed the socket buffer limits, as cfwall does in production.
func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// settle makes sure that the process has left the outside, and gives it an
// empty /run, where nothing that it writes outlives it, and a loopback.
func settle(outside string) error {
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("reading the network namespace: %w", err)
	}
	if here == outside || !strings.HasPrefix(outside, "net:[") {
		return fmt.Errorf("%s=%q, but this is the machine's own network namespace or may be: unset it", marker, outside)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting an empty /run: %w", err)
	}
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo"}}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	return nil
}
