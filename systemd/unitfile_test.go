package systemd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lay makes files below a root of their own; a text "-> TARGET" makes a link.
func lay(t testing.TB, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = errors.Join(err, os.Symlink(target, path))
		} else {
			err = errors.Join(err, os.WriteFile(path, []byte(text), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestReadUnit(t *testing.T) {
	const (
		lib     = "usr/lib/systemd/system/"
		etc     = "etc/systemd/system/"
		port22  = "[Socket]\nListenStream=22\n"
		port443 = "[Socket]\nListenStream=443\n"
		only443 = "[Socket]\nListenStream=\nListenStream=443\n"
	)
	for _, c := range []struct {
		name  string
		unit  string // ssh.socket if empty
		files map[string]string
		want  []string // of ListenStream= in [Socket]
	}{
		{"one file", "", map[string]string{lib + "ssh.socket": port22}, []string{"22"}},
		{"without a merged /usr", "", map[string]string{"lib/systemd/system/ssh.socket": port22}, []string{"22"}},
		{"of /usr/local", "", map[string]string{"usr/local/lib/systemd/system/ssh.socket": port443, lib + "ssh.socket": port22}, []string{"443"}},
		{"the administrator's file", "", map[string]string{etc + "ssh.socket": port443, lib + "ssh.socket": port22}, []string{"443"}},
		{"a transient unit", "", map[string]string{"run/systemd/transient/ssh.socket": port443, etc + "ssh.socket": port22}, []string{"443"}},
		{"generated late", "", map[string]string{"run/systemd/generator.late/ssh.socket": port443, lib + "ssh.socket": port22}, []string{"22"}},
		{"a drop-in adds", "", map[string]string{lib + "ssh.socket": port22, etc + "ssh.socket.d/more.conf": port443}, []string{"22", "443"}},
		{"a drop-in replaces", "", map[string]string{lib + "ssh.socket": port22, etc + "ssh.socket.d/instead.conf": only443}, []string{"443"}},
		{"what Ubuntu generates", "", map[string]string{
			lib + "ssh.socket": "[Socket]\nListenStream=0.0.0.0:22\nListenStream=[::]:22\nBindIPv6Only=ipv6-only\n",
			"run/systemd/generator/ssh.socket.d/addresses.conf": "# Automatically generated\n[Socket]\nListenStream=\nListenStream=0.0.0.0:2222\nListenStream=[::]:2222\n",
		}, []string{"0.0.0.0:2222", "[::]:2222"}},
		{"set-property", "", map[string]string{lib + "ssh.socket": port22, "etc/systemd/system.control/ssh.socket.d/50-x.conf": only443}, []string{"443"}},
		{"drop-ins in the order of their names", "", map[string]string{
			lib + "ssh.socket":                           port22,
			etc + "ssh.socket.d/10-a.conf":               "[Socket]\nListenStream=1\n",
			lib + "ssh.socket.d/20-b.conf":               "[Socket]\nListenStream=2\n",
			"run/systemd/system/ssh.socket.d/15-c.conf":  "[Socket]\nListenStream=3\n",
			"run/systemd/generator/ssh.socket.d/05.conf": "[Socket]\nListenStream=4\n",
		}, []string{"22", "4", "1", "3", "2"}},
		{"one drop-in hides another", "", map[string]string{
			lib + "ssh.socket": port22, lib + "ssh.socket.d/a.conf": only443, etc + "ssh.socket.d/a.conf": "[Socket]\nListenStream=1\n",
		}, []string{"22", "1"}},
		{"an empty drop-in hides another", "", map[string]string{
			lib + "ssh.socket": port22, lib + "ssh.socket.d/a.conf": only443, etc + "ssh.socket.d/a.conf": "",
		}, []string{"22"}},
		{"a masked drop-in", "", map[string]string{
			lib + "ssh.socket": port22, lib + "ssh.socket.d/a.conf": only443, etc + "ssh.socket.d/a.conf": "-> /dev/null",
		}, []string{"22"}},
		{"files that are no drop-ins", "", map[string]string{
			lib + "ssh.socket": port22, etc + "ssh.socket.d/a.conf~": only443, etc + "ssh.socket.d/.#a.conf": "-> nowhere",
		}, []string{"22"}},
		{"for all of a type", "", map[string]string{lib + "ssh.socket": port22, etc + "socket.d/a.conf": port443}, []string{"22", "443"}},
		{"for a beginning of the name", "a-b-c.socket", map[string]string{
			lib + "a-b-c.socket": port22, etc + "a-.socket.d/1.conf": "[Socket]\nListenStream=1\n", etc + "a-b-.socket.d/2.conf": "[Socket]\nListenStream=2\n",
			etc + "a-x-.socket.d/3.conf": port443, etc + "a-b.socket.d/4.conf": port443,
		}, []string{"22", "1", "2"}},
		{"the longest beginning hides the others", "a-b-c.socket", map[string]string{
			lib + "a-b-c.socket": port22, etc + "a-.socket.d/x.conf": port443, lib + "a-b-.socket.d/x.conf": "[Socket]\nListenStream=2\n", etc + "socket.d/x.conf": port443,
		}, []string{"22", "2"}},
		{"an instance of a template", "x@home.socket", map[string]string{
			lib + "x@.socket": port22, etc + "x@.socket.d/1.conf": "[Socket]\nListenStream=1\n", etc + "x@home.socket.d/2.conf": "[Socket]\nListenStream=2\n",
			etc + "x@work.socket.d/3.conf": port443,
		}, []string{"22", "1", "2"}},
		{"an instance of its own", "x@home.socket", map[string]string{lib + "x@home.socket": port443, etc + "x@.socket": port22}, []string{"443"}},
		{"an alias", "sshd.socket", map[string]string{
			lib + "ssh.socket": port22, etc + "sshd.socket": "-> /usr/lib/systemd/system/ssh.socket",
			etc + "ssh.socket.d/1.conf": "[Socket]\nListenStream=1\n", etc + "sshd.socket.d/2.conf": "[Socket]\nListenStream=2\n",
		}, []string{"22", "1", "2"}},
		{"a relative link", "sshd.socket", map[string]string{lib + "ssh.socket": port22, lib + "sshd.socket": "-> ssh.socket"}, []string{"22"}},
		{"syntax", "", map[string]string{lib + "ssh.socket": "\n; no\n# ListenStream=1\n  [Socket]  \n  ListenStream = 2  \nListenStream\n[Other]\nListenStream=3\n" +
			"[Socket]\nlistenstream=4\nListenStream=a \\\n# no\\\n  b\\\n; no\n\nListenStream=c\\\\\nListenStream=d=e\nListenStream=f\\"},
			[]string{"2", `a  b`, `c\\`, "d=e", "f"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.unit == "" {
				c.unit = "ssh.socket"
			}
			u, err := ReadUnit(lay(t, c.files), c.unit)
			if got := u.Values("Socket", "ListenStream"); err != nil || u.Masked || !slices.Equal(got, c.want) {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestMaskedUnit(t *testing.T) {
	for name, text := range map[string]string{"by a link": "-> /dev/null", "by an empty file": ""} {
		root := lay(t, map[string]string{
			"etc/systemd/system/ssh.socket": text, "usr/lib/systemd/system/ssh.socket": "[Socket]\nListenStream=22\n",
			"etc/systemd/system/ssh.socket.d/a.conf": "[Socket]\nListenStream=23\n",
		})
		u, err := ReadUnit(root, "ssh.socket")
		if err != nil || !u.Masked || u.Values("Socket", "ListenStream") != nil {
			t.Errorf("%s: got %+v, %v", name, u, err)
		}
	}
}

func TestReadUnitFails(t *testing.T) {
	root := lay(t, map[string]string{
		"etc/systemd/system/lost.service":                  "-> /nowhere/lost.service",
		"etc/systemd/system/circle.service":                "-> circle.service",
		"etc/systemd/system/drop-in-only.service.d/a.conf": "[Service]\nUser=a\n",
		"etc/passwd": "root",
	})
	for name, want := range map[string]error{
		"none.service": fs.ErrNotExist, "lost.service": fs.ErrNotExist, "drop-in-only.service": fs.ErrNotExist,
		"circle.service": nil, "": fs.ErrInvalid, "../../passwd": fs.ErrInvalid, "/etc/passwd": fs.ErrInvalid,
	} {
		if _, err := ReadUnit(root, name); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", name, err, want)
		}
	}
}

// A drop-in that cannot be read does not hide what the others say.
func TestReadUnitInPart(t *testing.T) {
	root := lay(t, map[string]string{
		"usr/lib/systemd/system/a.service":      "[Service]\nIPAddressDeny=any\n",
		"etc/systemd/system/a.service.d/1.conf": "-> nowhere",
		"etc/systemd/system/a.service.d/2.conf": "[Service]\nIPAddressDeny=192.0.2.0/24\n",
	})
	u, err := ReadUnit(root, "a.service")
	if got := u.Values("Service", "IPAddressDeny"); err == nil || !slices.Equal(got, []string{"any", "192.0.2.0/24"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

func FuzzParseUnit(f *testing.F) {
	f.Add("[Socket]\nListenStream=\nListenStream=0.0.0.0:22\\\n # x\n 1\n")
	f.Add("[\n=\n\\")
	f.Add(strings.Repeat("a\\\n", 1000) + "[x]")
	f.Fuzz(func(t *testing.T, text string) {
		u := Unit{values: make(map[setting][]string)}
		if err := u.parse(strings.NewReader(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		for s, values := range u.values {
			if len(values) == 0 || slices.Contains(values, "") {
				t.Errorf("%v is set to nothing: %q", s, values)
			}
		}
	})
}

// A file without end takes neither the memory nor the time of the daemon.
func TestParseUnitIsBounded(t *testing.T) {
	for _, text := range []string{"a\\\n", "[x]\ny=z\n", "x"} {
		u := Unit{values: make(map[setting][]string)}
		if err := u.parse(&endless{text: text}); err != nil {
			t.Errorf("%q for ever: %v", text, err)
		}
	}
}

// endless repeats a text for ever.
type endless struct {
	text string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = e.text[e.at%len(e.text)]
		e.at++
	}
	return len(p), nil
}
