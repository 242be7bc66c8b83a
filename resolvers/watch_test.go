package resolvers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is after how long something is said to have been missed.
const patience = 10 * time.Second

// A follower reads again when it is told to, as the daemon does.
type follower struct {
	host
	told    <-chan struct{}
	found   string
	changes int
}

func follow(h host) *follower {
	h.Helper()
	told, err := Watch(h.Context(), h.root)
	h.must(err)
	h.Cleanup(func() { // after the context has ended
		for range told {
		}
	})
	return &follower{host: h, told: told, found: read(h)}
}

func read(h host) string {
	found, _ := Read(h.root)
	return words(found)
}

// want waits until the follower has been told of what is there now.
func (f *follower) want(what, want string) {
	f.Helper()
	if now := read(f.host); now != want {
		f.Fatalf("%s: there is %q, want %q", what, now, want)
	}
	timeout := time.After(patience)
	for f.found != want {
		select {
		case <-f.told:
			f.found = read(f.host)
			f.changes++
		case <-timeout:
			f.Fatalf("%s: not told; known is %q, there is %q", what, f.found, want)
		}
	}
}

// quiet waits until nothing is told for a while, and returns how often it was.
func (f *follower) quiet() (times int) {
	for {
		select {
		case <-f.told:
			times++
		case <-time.After(50 * time.Millisecond):
			return times
		}
	}
}

func server(n int) string { return fmt.Sprintf("nameserver 192.0.2.%d\n", n) }

func TestWatchPlainFile(t *testing.T) {
	h := newHost(t)
	f := follow(h)
	h.put(resolvConf, server(1))
	f.want("it came", "192.0.2.1")
	h.put(resolvConf, server(2))
	f.want("replaced by rename", "192.0.2.2")
	h.overwrite(resolvConf, server(3))
	f.want("changed in place", "192.0.2.3")
	h.remove(resolvConf)
	f.want("removed", "stub")
	h.overwrite(resolvConf, server(4))
	f.want("came again", "192.0.2.4")
	h.move(resolvConf, "/etc/resolv.conf.bak")
	f.want("moved away", "stub")
	h.move("/etc/resolv.conf.bak", resolvConf)
	f.want("moved back", "192.0.2.4")
	h.put(resolvConf, "nameserver 127.0.0.1\n")
	f.want("a resolver of its own", "stub")
}

func TestWatchLinks(t *testing.T) {
	h := newHost(t, resolvConf, "-> /var/run/a/resolv.conf", "/var/run", "-> ../run",
		"/run/a/resolv.conf", server(1), "/run/b/resolv.conf", server(2), "/srv/a/resolv.conf", server(3))
	f := follow(h)
	h.put("/run/a/resolv.conf", server(4))
	f.want("the file behind it", "192.0.2.4")
	h.put(resolvConf, "-> ../run/b/resolv.conf")
	f.want("turned", "192.0.2.2")
	h.put("/run/b/resolv.conf", server(5))
	f.want("the file that it was turned to", "192.0.2.5")
	h.put(resolvConf, "-> /var/run/a/resolv.conf")
	f.want("turned back", "192.0.2.4")
	h.put("/var/run", "-> /srv")
	f.want("a link on the way", "192.0.2.3")
	h.overwrite("/srv/a/resolv.conf", server(6))
	f.want("behind two links", "192.0.2.6")
	h.put(resolvConf, server(7))
	f.want("a file in its place", "192.0.2.7")
}

// While a host starts, the directories of systemd-resolved and NetworkManager
// are not there yet.
func TestWatchDirectoriesThatComeLater(t *testing.T) {
	h := newHost(t, resolvConf, "-> ../run/systemd/resolve/stub-resolv.conf")
	f := follow(h)
	h.put(manager+"no-stub-resolv.conf", server(1))
	f.want("NetworkManager came", "192.0.2.1")
	h.put(resolved+"resolv.conf", server(2))
	f.want("systemd-resolved came", "192.0.2.1 192.0.2.2")
	h.put(resolved+"stub-resolv.conf", "nameserver 127.0.0.53\n")
	h.put(resolved+"resolv.conf", server(3))
	f.want("it learned of another", "192.0.2.1 192.0.2.3")
	h.remove("/run/NetworkManager")
	f.want("NetworkManager went", "192.0.2.3")
	h.remove("/run/systemd")
	f.want("both went", "stub")
	h.put(manager+"no-stub-resolv.conf", server(4))
	f.want("one came again", "192.0.2.4")
	h.move("/run/NetworkManager", "/run/elsewhere")
	f.want("moved away", "stub")
	h.put("/run/elsewhere/no-stub-resolv.conf", server(5))
	h.move("/run/elsewhere", "/run/NetworkManager")
	f.want("moved back", "192.0.2.5")
	h.overwrite(manager+"no-stub-resolv.conf", server(6))
	f.want("and followed there", "192.0.2.6")
}

// A directory may be taken away with everything above it, and while somebody
// holds it the kernel does not say that it went.
func TestWatchDirectoryThatIsHeld(t *testing.T) {
	h := newHost(t, resolvConf, "nameserver 127.0.0.53\n", resolved+"resolv.conf", server(1))
	f := follow(h)
	held, err := os.Open(h.path(resolved))
	h.must(err)
	defer held.Close()
	h.move("/run", "/gone")
	f.want("moved away with its parents", "stub")
	h.remove("/gone")
	h.put(resolved+"resolv.conf", server(2))
	f.want("there again", "192.0.2.2")
	h.remove("/run/systemd")
	f.want("removed", "stub")
	h.put(resolved+"resolv.conf", server(3))
	f.want("there once more", "192.0.2.3")
}

// Other files in the directories are nobody's business, and neither are the
// files of a resolver that is not asked, nor reading.
func TestWatchIsQuiet(t *testing.T) {
	h := newHost(t, resolvConf, server(1), resolved+"resolv.conf", server(2))
	f := follow(h)
	for i := range 100 {
		h.put(fmt.Sprintf("/etc/other%d", i), "")
		h.put("/etc/hosts", "")
		h.put(resolved+"resolv.conf", server(i))
		h.mkdir(fmt.Sprintf("/run/other%d", i))
		read(h)
	}
	if n := f.quiet(); n > 0 {
		t.Errorf("told %d times of what does not matter", n)
	}
	h.put(resolvConf, "nameserver 127.0.0.53\n")
	f.want("systemd-resolved is asked now", "192.0.2.99")
	f.quiet()
	h.put(resolved+"resolv.conf.tmp", "")
	h.put("/run/systemd/sessions", "")
	if n := f.quiet(); n > 0 {
		t.Errorf("told %d times of what does not matter", n)
	}
}

// A word that nobody has taken yet stands for all changes since.
func TestWatchNobodyListens(t *testing.T) {
	h := newHost(t)
	f := follow(h)
	for i := range 5_000 {
		h.put(resolvConf, server(i%250))
	}
	f.want("many changes", "192.0.2.249")
	h.put(resolvConf, server(251))
	f.want("one more", "192.0.2.251")
}

// What Read returns is always told in the end, whatever happens to the tree.
func TestWatchFollowsEverything(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	h := newHost(t)
	f := follow(h)
	dirs := []string{"/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/a", "/run/a/b", "/srv"}
	names := []string{"resolv.conf", "no-stub-resolv.conf"}
	pick := func(all []string) string { return all[random.IntN(len(all))] }
	for i := range 3_000 {
		file := pick(append([]string{resolvConf}, filepath.Join(pick(dirs), pick(names))))
		var what string
		switch random.IntN(8) {
		case 0:
			what = "linked " + file + " to a file"
			err := replace(h, file, "-> "+filepath.Join(pick(dirs), pick(names)))
			what += fmt.Sprint(" ", err)
		case 1:
			dir, target := pick(dirs[2:]), pick(dirs)
			what = fmt.Sprint("linked ", dir, " to ", target, " ", replace(h, dir, "-> "+target))
		case 2:
			dir := pick(dirs[1:])
			what = fmt.Sprint("removed ", dir, " ", h.files.RemoveAll(inTree(dir)))
		case 3:
			from, to := pick([]string{"/run", "/run/systemd", "/run/a", "/run/a/b", "/srv"}), pick([]string{"/run", "/run/systemd", "/run/a", "/old"})
			what = fmt.Sprint("moved ", from, " to ", to, " ", h.files.Rename(inTree(from), inTree(to)), h.files.RemoveAll("old"))
		case 4:
			what = fmt.Sprint("asked a stub ", replace(h, resolvConf, "nameserver 127.0.0.53\n"))
		default:
			what = fmt.Sprint("wrote ", file, " ", replace(h, file, server(i%250)))
		}
		f.want(fmt.Sprintf("step %d, %s", i, what), read(h))
	}
	t.Logf("%d changes", f.changes)
}

// replace puts a file or link where it can.
func replace(h host, name, content string) error {
	name = inTree(name)
	if err := h.files.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if target, isLink := strings.CutPrefix(content, "-> "); isLink {
		_ = h.files.RemoveAll(name)
		return h.files.Symlink(target, name)
	}
	temporary := name + ".tmp"
	if err := h.files.WriteFile(temporary, []byte(content), 0o644); err != nil {
		return err
	}
	return h.files.Rename(temporary, name)
}

// fsnotify reports a directory that is moved and removed at once as an error,
// and holds its lock until somebody takes that.
func TestWatchDirectoryMovedAndRemoved(t *testing.T) {
	h := newHost(t, resolvConf, "nameserver 127.0.0.53\n")
	f := follow(h)
	for i := range 1_000 {
		h.put(manager+"no-stub-resolv.conf", server(i%250))
		f.want("it came", fmt.Sprintf("192.0.2.%d", i%250))
		h.move("/run/NetworkManager", "/run/gone")
		h.remove("/run/gone")
		f.want("it went", "stub")
	}
}

// Directories that no longer matter are watched no longer.
func TestWatchForgets(t *testing.T) {
	h := newHost(t, resolvConf, "nameserver 127.0.0.53\n", resolved+"resolv.conf", server(1), manager+"no-stub-resolv.conf", "")
	f := follow(h)
	if got := watched(t); got != 6 { // /, /etc, /run, and below that systemd, systemd/resolve and NetworkManager
		t.Errorf("%d directories are watched, want 6", got)
	}
	h.put(resolvConf, server(2))
	f.want("no stub is asked", "192.0.2.2")
	if got := watched(t); got != 2 { // / and /etc
		t.Errorf("%d directories are watched, want 2", got)
	}
}

// watched counts what this process's inotify descriptors watch.
func watched(t *testing.T) (n int) {
	t.Helper()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		b, _ := os.ReadFile(info)
		n += strings.Count(string(b), "inotify wd:")
	}
	return n
}

// A name may come to be at the very moment at which it is looked for: who
// watches must have been told before.
func TestVisitComesFirst(t *testing.T) {
	h := newHost(t)
	last := h.path(resolved + "resolv.conf")
	visit := func(path string) {
		if _, err := os.Lstat(path); err == nil || !strings.HasPrefix(last, path) {
			return
		}
		if path == last {
			h.must(os.WriteFile(path, []byte(server(1)), 0o644))
			return
		}
		h.must(os.Mkdir(path, 0o755))
	}
	if found, _ := (tree{root: h.root, visit: visit}).servers(); words(found) != "192.0.2.1" {
		t.Errorf("got %+v", found)
	}
}

// With the context end the channels, the goroutines and the descriptors.
func TestWatchEnds(t *testing.T) {
	h := newHost(t, resolvConf, server(1))
	ctx, cancel := context.WithCancel(t.Context())
	var all []<-chan struct{}
	for range 20 {
		told, err := Watch(ctx, h.root)
		h.must(err)
		all = append(all, told)
	}
	if got := inotifies(t); got != 20 {
		t.Fatalf("%d inotify descriptors are open, want 20", got)
	}
	cancel()
	for i := range 100 { // events may be under way as it ends
		h.put(resolvConf, server(i))
	}
	for _, told := range all {
		for range told {
		}
	}
	if got := inotifies(t); got != 0 {
		t.Errorf("%d inotify descriptors are open", got)
	}
	if stacks := ourGoroutines(); stacks != "" {
		t.Errorf("still running:\n%s", stacks)
	}
}

// inotifies counts this process's inotify descriptors.
func inotifies(t *testing.T) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, _ := os.Readlink(link); target == "anon_inode:inotify" {
			n++
		}
	}
	return n
}

// ourGoroutines returns the stacks of the goroutines that a Watch started. A
// goroutine that has closed its channel may need a moment to end.
func ourGoroutines() (stacks string) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); runtime.Gosched() {
		buffer := make([]byte, 1<<20)
		stacks = ""
		for s := range strings.SplitSeq(string(buffer[:runtime.Stack(buffer, true)]), "\n\n") {
			if strings.Contains(s, "(*watcher)") || strings.Contains(s, "fsnotify") {
				stacks += s + "\n\n"
			}
		}
		if stacks == "" {
			return ""
		}
	}
	return stacks
}

func TestWatchCannotBegin(t *testing.T) {
	tooLong := "/" + strings.Repeat("a/", unix.PathMax)
	if told, err := Watch(t.Context(), tooLong); told != nil || !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("a root that cannot be watched: got %v, %v", told, err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	h.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}))
	told, err := Watch(t.Context(), h.root)
	h.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	if told != nil || !errors.Is(err, unix.EMFILE) {
		t.Errorf("without descriptors: got %v, %v", told, err)
	}
	if n, stacks := inotifies(t), ourGoroutines(); n != 0 || stacks != "" {
		t.Errorf("%d inotify descriptors are left, and:\n%s", n, stacks)
	}
}
