package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

// callerStandIn names the directory of a daemon, which this program asks for every
// verb of the protocol.
const callerStandIn = "CFWALL_TEST_CALLER"

// playCaller prints what the daemon said to each verb, "" for an answer, or why it
// could not be asked.
func playCaller(dir string) {
	c, err := Dial(pathsIn(dir))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	said := make(map[string]string)
	for name, expected := range protocol {
		said[name] = ""
		if _, err := call[json.RawMessage](context.Background(), c, name, json.RawMessage(expected.request)); err != nil {
			said[name] = err.Error()
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(said)
	os.Exit(0)
}

// controlCallers come to the socket in this order: whoever may change something
// comes last.
var controlCallers = []struct {
	who        string
	credential syscall.Credential
}{
	{"another user", syscall.Credential{Uid: 64003, Gid: 64003}},
	{"a member", syscall.Credential{Uid: 64002, Gid: 64002, Groups: []uint32{cfwallUser.Gid}}},
	{"cfwall", cfwallUser},
	{"root", syscall.Credential{}},
}

// cfwallUser is the system user of the daemon; its group is that of the readers.
var cfwallUser = syscall.Credential{Uid: 64001, Gid: 64001}

// What a user may do at the control socket.
const (
	notConnect = iota
	onlyRead
	write
)

// Every verb is asked for by every kind of user, each a process of its own, at the
// socket of a daemon that guards a host.
func TestControlSocketByUser(t *testing.T) {
	lab.Kernel(t)
	if ids, err := os.ReadFile("/proc/self/uid_map"); err != nil || strings.Fields(string(ids))[2] == "1" {
		lab.Unprivileged(t, "an ordinary user cannot be other users")
	}
	const withGroup = "root:x:0:\ncfwall:x:64001:\n"
	for name, c := range map[string]struct {
		daemon syscall.Credential
		groups string
		socket string // its owner, group and mode
		may    map[string]int
	}{
		"a daemon of the user cfwall": {cfwallUser, withGroup, "64001:64001 0660", map[string]int{"root": write, "cfwall": write, "a member": onlyRead}},
		"a daemon of root":            {syscall.Credential{}, withGroup, "0:64001 0660", map[string]int{"root": write, "cfwall": onlyRead, "a member": onlyRead}},
		"without the group":           {syscall.Credential{}, "root:x:0:\n", "0:0 0600", map[string]int{"root": write}},
	} {
		t.Run(name, func(t *testing.T) {
			layGroups(t, c.groups)
			h := lab.New(t).Host("web")
			dir := startDaemonAs(t, h, c.daemon)
			if got := ownership(t, pathsIn(dir).socket()); got != c.socket {
				t.Errorf("the socket is %s, want %s", got, c.socket)
			}
			for _, caller := range controlCallers {
				before := pictureOf(t, h, dir)
				expectSaid(t, caller.who, askForAll(t, dir, caller.credential), c.may[caller.who])
				changes := cmp.Diff(before, pictureOf(t, h, dir))
				if (changes != "") != (c.may[caller.who] == write) {
					t.Errorf("%s has changed: %q", caller.who, changes)
				}
			}
		})
	}
}

// layGroups lays a file over /etc/group, for the lab alone.
func layGroups(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "group")
	writeFile(t, file, text)
	must(t, os.Chmod(file, 0o644), unix.Mount(file, "/etc/group", "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount("/etc/group", 0)) })
}

// startDaemonAs starts the daemon as a user with CAP_NET_ADMIN alone, in a
// directory that everybody can look into, and waits until its first fetch has
// failed: now it changes nothing of itself. The config file is another than the
// one in force.
func startDaemonAs(t *testing.T, h *lab.Host, user syscall.Credential) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "cfwall")
	must(t, err, os.Chmod(dir, 0o755), os.Chown(dir, int(user.Uid), int(user.Gid)))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), daemonStandIn+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &user, AmbientCaps: []uintptr{unix.CAP_NET_ADMIN}}
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	h.Start(cmd)
	waitFor(t, "the first fetch", func() bool {
		c, err := Dial(pathsIn(dir))
		if err != nil {
			return false
		}
		book, err := c.Ranges(t.Context())
		return err == nil && book.Failures > 0
	})
	must(t, os.WriteFile(pathsIn(dir).Config, []byte("[web]\ntcp = [8443]\n"), 0o644))
	return dir
}

func ownership(t *testing.T, path string) string {
	t.Helper()
	var s unix.Stat_t
	must(t, unix.Stat(path, &s))
	return fmt.Sprintf("%d:%d %04o", s.Uid, s.Gid, s.Mode&0o7777)
}

// askForAll asks for every verb as a user. It returns nil where that one cannot connect.
func askForAll(t *testing.T, dir string, user syscall.Credential) (said map[string]string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), callerStandIn+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &user}
	out, err := cmd.Output()
	if err != nil && bytes.HasSuffix(bytes.TrimSpace(out), []byte(unix.EACCES.Error())) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(out, &said)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return said
}

// expectSaid wants answers to what a user may do, and refusals to all else. What a
// writer asks for may be refused for a reason of its own: nothing is on trial.
func expectSaid(t *testing.T, who string, said map[string]string, may int) {
	t.Helper()
	if (said == nil) != (may == notConnect) {
		t.Errorf("%s could connect: %v", who, said != nil)
	}
	for name, text := range said {
		refused := text == refusedToReaders
		if refused != (protocol[name].writes && may < write) || !protocol[name].writes && text != "" {
			t.Errorf("%s by %s: %q", name, who, text)
		}
	}
}

// A picture is all that a verb may change.
type picture struct {
	Generation uint32
	Files      map[string]string
}

func pictureOf(t *testing.T, h *lab.Host, dir string) picture {
	t.Helper()
	p := picture{tableOf(t, h).Generation, make(map[string]string)}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		p.Files[path] = string(content)
		return err
	}))
	return p
}
