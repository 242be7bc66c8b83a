package resolvers

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A host is a fake root.
// A host is a tree of files. It is changed by an os.Root: links in it are those
// of the host, and must not lead a test out to the machine's own files.
type host struct {
	*testing.T
	root  string
	files *os.Root
}

// inTree is how an os.Root names a path of the host.
func inTree(name string) string { return strings.TrimPrefix(filepath.Clean(name), "/") }

// newHost makes a host of pairs of a path and its contents, or "-> " and where
// the link leads. An empty one has /etc and /run.
func newHost(t *testing.T, files ...string) host {
	t.Helper()
	root := t.TempDir()
	tree, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	h := host{t, root, tree}
	h.mkdir("/etc")
	h.mkdir("/run")
	for i := 0; i < len(files); i += 2 {
		h.put(files[i], files[i+1])
	}
	return h
}

func (h host) path(name string) string { return filepath.Join(h.root, name) }

func (h host) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h host) mkdir(name string) { h.must(h.files.MkdirAll(inTree(name), 0o755)) }

// put replaces a file or link by rename, as most programs do.
func (h host) put(name, content string) {
	h.Helper()
	h.mkdir(filepath.Dir(name))
	temporary := inTree(filepath.Join(filepath.Dir(name), ".tmp"))
	if target, isLink := strings.CutPrefix(content, "-> "); isLink {
		h.must(h.files.Symlink(target, temporary))
	} else {
		h.must(h.files.WriteFile(temporary, []byte(content), 0o644))
	}
	h.must(h.files.Rename(temporary, inTree(name)))
}

// overwrite changes a file in place, as editors do.
func (h host) overwrite(name, content string) {
	h.Helper()
	h.must(h.files.WriteFile(inTree(name), []byte(content), 0o644))
}

func (h host) move(from, to string) { h.Helper(); h.must(h.files.Rename(inTree(from), inTree(to))) }

func (h host) remove(name string) { h.Helper(); h.must(h.files.RemoveAll(inTree(name))) }

const (
	resolved = "/run/systemd/resolve/"
	manager  = "/run/NetworkManager/"
)

func TestRead(t *testing.T) {
	tests := []struct {
		name  string
		files []string
		want  string // the addresses; "stub"
		file  string
		err   string
	}{
		{"plain", []string{resolvConf, "search example.org\nnameserver 192.0.2.53\nnameserver 192.0.2.52\noptions edns0\n"},
			"192.0.2.52 192.0.2.53", resolvConf, ""},
		{"twice", []string{resolvConf, "nameserver 192.0.2.53\nnameserver ::ffff:192.0.2.53\n"}, "192.0.2.53", resolvConf, ""},
		{"IPv6 with a zone", []string{resolvConf, "nameserver fe80::1%eth0\nnameserver 2001:db8::53\nnameserver 192.0.2.53\n"},
			"192.0.2.53 2001:db8::53 fe80::1", resolvConf, ""},
		{"CRLF", []string{resolvConf, "# made on Windows\r\nnameserver 192.0.2.53\r\nnameserver 2001:db8::53\r\n"},
			"192.0.2.53 2001:db8::53", resolvConf, ""},
		{"a link, absolute", []string{resolvConf, "-> /run/resolvconf/resolv.conf", "/run/resolvconf/resolv.conf", "nameserver 192.0.2.53"},
			"192.0.2.53", resolvConf, ""},
		{"a link that climbs above the root", []string{resolvConf, "-> ../../../run/resolvconf/resolv.conf", "/run/resolvconf/resolv.conf", "nameserver 192.0.2.53"},
			"192.0.2.53", resolvConf, ""},
		{"a link through a link", []string{resolvConf, "-> ../var/run/resolvconf/./resolv.conf", "/var/run", "-> /run",
			"/run/resolvconf", "-> /usr/share/resolvconf//", "/usr/share/resolvconf/resolv.conf", "nameserver 192.0.2.53"},
			"192.0.2.53", resolvConf, ""},
		{"stub of systemd-resolved", []string{resolvConf, "-> ../run/systemd/resolve/stub-resolv.conf",
			resolved + "stub-resolv.conf", "nameserver 127.0.0.53\noptions edns0 trust-ad\n",
			resolved + "resolv.conf", "nameserver 192.0.2.53\nnameserver fe80::1%2\n"}, "192.0.2.53 fe80::1", resolved + "resolv.conf", ""},
		{"systemd-resolved without its stub", []string{resolvConf, "-> /run/systemd/resolve/resolv.conf",
			resolved + "resolv.conf", "nameserver 192.0.2.53\n"}, "192.0.2.53", resolvConf, ""},
		{"systemd-resolved knows none", []string{resolvConf, "nameserver 127.0.0.53\n",
			resolved + "resolv.conf", "# No DNS servers known.\nsearch .\n"}, "stub", "", ""},
		{"NetworkManager's dnsmasq", []string{resolvConf, "nameserver 127.0.0.1\n", manager + "no-stub-resolv.conf", "nameserver 192.0.2.53\n"},
			"192.0.2.53", manager + "no-stub-resolv.conf", ""},
		{"both", []string{resolvConf, "nameserver 127.0.0.53\n", resolved + "resolv.conf", "nameserver 192.0.2.53\n",
			manager + "no-stub-resolv.conf", "nameserver 192.0.2.53\nnameserver 192.0.2.2\n"},
			"192.0.2.2 192.0.2.53", resolved + "resolv.conf and " + manager + "no-stub-resolv.conf", ""},
		{"upstreams of a stub that is not asked", []string{resolvConf, "nameserver 198.51.100.53\n", resolved + "resolv.conf", "nameserver 192.0.2.53\n"},
			"198.51.100.53", resolvConf, ""},
		{"unbound", []string{resolvConf, "nameserver 127.0.0.1\nnameserver ::1\nnameserver ::ffff:127.0.0.2\nnameserver 0.0.0.0\nnameserver ::\n"}, "stub", "", ""},
		{"unbound, and one elsewhere", []string{resolvConf, "nameserver 127.0.0.1\nnameserver 192.0.2.53\n"}, "192.0.2.53", resolvConf, ""},
		{"missing", nil, "stub", "", "/etc/resolv.conf does not exist"},
		{"missing, with systemd-resolved", []string{resolved + "resolv.conf", "nameserver 192.0.2.53\n"},
			"192.0.2.53", resolved + "resolv.conf", "does not exist"},
		{"empty", []string{resolvConf, ""}, "stub", "", "/etc/resolv.conf names no server"},
		{"only a comment", []string{resolvConf, "# nameserver 192.0.2.53\n;nameserver 192.0.2.53\n"}, "stub", "", "names no server"},
		{"a link to nothing", []string{resolvConf, "-> ../run/systemd/resolve/stub-resolv.conf"}, "stub", "", "does not exist"},
		{"links in a circle", []string{resolvConf, "-> /run/resolv.conf", "/run/resolv.conf", "-> ../etc/resolv.conf"}, "stub", "", "too many levels of symbolic links"},
		{"a link to the root", []string{resolvConf, "-> /"}, "stub", "", "is no regular file"},
		{"a directory", []string{resolvConf + "/nothing", ""}, "stub", "", "is no regular file"},
		{"too large", []string{resolvConf, "nameserver 192.0.2.53\n" + strings.Repeat("#", maxSize)}, "stub", "", "is larger than 64 KiB"},
		{"as large as may be", []string{resolvConf, strings.Repeat("\n", maxSize-21) + "nameserver 192.0.2.53"}, "192.0.2.53", resolvConf, ""},
		{"upstreams that cannot be read", []string{resolvConf, "nameserver 127.0.0.53\n", resolved + "resolv.conf/nothing", "",
			manager + "no-stub-resolv.conf", "nameserver 192.0.2.53\n"}, "192.0.2.53", manager + "no-stub-resolv.conf", "resolve/resolv.conf is no regular file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			found, err := Read(newHost(t, tt.files...).root)
			if got := words(found); got != tt.want || found.File != tt.file {
				t.Errorf("got %s in %q, want %s in %q", got, found.File, tt.want, tt.file)
			}
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got error %v, want one with %q", err, tt.err)
			}
		})
	}
}

// words says what was found.
func words(f Found) string {
	var all []string
	for _, a := range f.Addresses {
		all = append(all, a.String())
	}
	if f.Stub {
		all = append(all, "stub")
	}
	return strings.Join(all, " ")
}

// A pipe that nobody writes to must not hold up the daemon.
func TestReadPipe(t *testing.T) {
	h := newHost(t)
	h.must(unix.Mkfifo(h.path(resolvConf), 0o644))
	if found, err := Read(h.root); !found.Stub || err == nil || !strings.Contains(err.Error(), "is no regular file") {
		t.Errorf("got %+v, %v", found, err)
	}
}

func TestParse(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no end of line", "nameserver 192.0.2.53", "192.0.2.53"},
		{"tab", "nameserver\t192.0.2.53\n", "192.0.2.53"},
		{"many blanks", "  nameserver \t 192.0.2.53 \t\n", "192.0.2.53"},
		{"comment behind", "nameserver 192.0.2.53#53\nnameserver 192.0.2.54 ; the other\n", "192.0.2.53 192.0.2.54"},
		{"comment before", "#nameserver 192.0.2.53\n; nameserver 192.0.2.54\n", ""},
		{"order and duplicates stay", "nameserver 192.0.2.2\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n", "192.0.2.2 192.0.2.1 192.0.2.2"},
		{"mapped", "nameserver ::ffff:192.0.2.53\n", "192.0.2.53"},
		{"mapped, with a zone", "nameserver ::ffff:192.0.2.53%eth0\n", "192.0.2.53"},
		{"zone", "nameserver fe80::1%br-lan.7\n", "fe80::1"},
		{"empty zone", "nameserver fe80::1%\n", ""},
		{"no address", "nameserver\nnameserver dns.example.org\nnameserver 192.0.2.53:53\nnameserver 192.0.2.0/24\nnameserver [2001:db8::1]\nnameserver 192.0.2.256\n", ""},
		{"other keywords", "nameservers 192.0.2.53\nNAMESERVER 192.0.2.53\nsortlist 192.0.2.53\noptions nameserver 192.0.2.53\nnameserver192.0.2.53\n", ""},
		{"garbage between", "\x00\xff\nnameserver 192.0.2.53\n<html>\nnameserver 192.0.2.54\n", "192.0.2.53 192.0.2.54"},
		{"16 of 20", strings.Repeat("nameserver 192.0.2.53\n", 20), strings.TrimSpace(strings.Repeat("192.0.2.53 ", 16))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := words(Found{Addresses: parse(tt.text)}); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// Whatever the file holds, what is read are addresses that a rule can hold, and
// a file of these alone reads the same, with CRLF and comments too.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"nameserver 192.0.2.53\r\nnameserver fe80::1%eth0 # zone", "nameserver ::ffff:192.0.2.1%0\n;", "\x00nameserver\t::1;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		servers := parse(text)
		if len(servers) > maxServers {
			t.Fatalf("%d servers", len(servers))
		}
		clean := "; clean\r\n"
		for _, a := range servers {
			if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
				t.Fatalf("%q was read as %v", text, a)
			}
			clean += "nameserver " + a.String() + " # a server\r\n"
		}
		if diff := cmp.Diff(servers, parse(clean), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Fatalf("%q reads otherwise the second time:\n%s", text, diff)
		}
	})
}
