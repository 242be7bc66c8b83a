package neighbourtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

// A machine is a web host of the lab with files of its own, on which the
// neighbours are installed. Until connect it has no cable: no packet counts on
// any rule.
type machine struct {
	*testing.T
	net    *lab.Net
	web    *lab.Host
	client *lab.Host // the Internet, after connect
	cfwall string    // the program
	daemon *exec.Cmd // cfwall's, while it runs
	owned  bool      // the neighbour cannot change our table while it lives
	port   uint16    // the guarded one, after connect
}

func newMachine(t *testing.T, cfwall string) *machine {
	net := lab.New(t)
	return &machine{T: t, net: net, web: net.Host("web"), cfwall: cfwall}
}

// patience is for a busy machine; a condition that comes true ends the wait.
const patience = 20 * time.Second

// unpacked is where scripts/neighbours has put the programs.
func unpacked(t *testing.T) string {
	cache, err := os.UserCacheDir()
	if err == nil {
		cache, err = filepath.EvalSymlinks(filepath.Join(cache, "cfwall-neighbours", "current"))
	}
	if err != nil {
		t.Fatalf("run scripts/neighbours first, as make test does: it unpacks ufw, firewalld, fail2ban, nftables and iptables: %v", err)
	}
	return cache
}

// enterOwnDirectories lays the neighbours' programs over /usr, and a fresh /etc,
// /var and /run over those of this machine, for this goroutine and what it
// starts. Its thread ends with the test, as no other can use it.
func (m *machine) enterOwnDirectories() {
	tree, own := unpacked(m.T), m.TempDir()
	for _, dir := range []string{"etc", "var", "run"} {
		m.check(os.MkdirAll(filepath.Join(own, dir), 0o755))
	}
	m.check(os.CopyFS(filepath.Join(own, "etc"), os.DirFS(filepath.Join(tree, "etc"))))
	m.check(os.CopyFS(filepath.Join(own, "var"), os.DirFS(filepath.Join(tree, "var"))))
	for _, file := range []string{"passwd", "group", "nsswitch.conf"} {
		content, err := os.ReadFile("/etc/" + file)
		m.check(err)
		m.check(os.WriteFile(filepath.Join(own, "etc", file), content, 0o644))
	}
	runtime.LockOSThread()
	m.check(unix.Unshare(unix.CLONE_NEWNS))
	m.check(unix.Mount("overlay", "/usr", "overlay", unix.MS_RDONLY, "lowerdir="+tree+"/usr:/usr"))
	for _, dir := range []string{"etc", "var", "run"} {
		m.check(unix.Mount(filepath.Join(own, dir), "/"+dir, "", unix.MS_BIND, ""))
	}
	for _, dir := range []string{"/var/log", "/run/lock", "/etc/cfwall"} {
		m.check(os.MkdirAll(dir, 0o755))
	}
	m.check(os.Symlink("/run", "/var/run"))
	// Looking up a name would send packets.
	m.write("/etc/hosts", "192.0.2.9 api.cloudflare.com www.cloudflare.com\n")
}

func (m *machine) check(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *machine) write(file, text string) {
	m.Helper()
	m.check(os.WriteFile(file, []byte(text), 0o644))
}

// command is a program of the machine's, with the environment of a service.
func (m *machine) command(name string, args ...string) *exec.Cmd {
	m.Helper()
	path := name
	for _, dir := range []string{"/usr/sbin/", "/usr/bin/"} {
		if _, err := os.Stat(dir + name); err == nil {
			path = dir + name
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", "HOME=/run"}
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// try runs a program and returns what it printed, with its complaints last if
// it fails.
func (m *machine) try(name string, args ...string) (string, error) {
	m.Helper()
	var out, complaint bytes.Buffer
	cmd := m.command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if err != nil {
		out.Write(complaint.Bytes())
	}
	return out.String(), err
}

// run runs a program that must succeed.
func (m *machine) run(name string, args ...string) string {
	m.Helper()
	out, err := m.try(name, args...)
	if err != nil {
		m.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// load gives a program its input.
func (m *machine) load(input, name string, args ...string) {
	m.Helper()
	cmd := m.command(name, args...)
	cmd.Stdin = bytes.NewBufferString(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		m.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// background starts a program that ends with the test, if not before.
func (m *machine) background(name string, args ...string) *exec.Cmd {
	m.Helper()
	cmd := m.command(name, args...)
	log, err := os.OpenFile("/var/log/"+filepath.Base(name)+".output", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	m.check(err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	m.check(cmd.Start())
	m.Cleanup(func() { m.end(cmd, unix.SIGKILL) })
	return cmd
}

// end ends a program of background's, if it has not ended, and waits for it.
func (m *machine) end(cmd *exec.Cmd, how unix.Signal) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Signal(how) // it may be ending already
		_ = cmd.Wait()              // how it ended is not asked
	}
}

// await waits until a program succeeds.
func (m *machine) await(name string, args ...string) {
	m.Helper()
	for late := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		out, err := m.try(name, args...)
		if err == nil {
			return
		}
		if time.Now().After(late) {
			m.Fatalf("after %v, %s %v: %v\n%s", patience, name, args, err, out)
		}
	}
}
