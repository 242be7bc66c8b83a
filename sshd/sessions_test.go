package sshd

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestParseConnection(t *testing.T) {
	for text, want := range map[string]Session{
		"203.0.113.7 50000 192.0.2.2 22":               own("192.0.2.2:22", "203.0.113.7:50000"),
		"2001:db8::1 50000 2001:db8::2 2222":           own("[2001:db8::2]:2222", "[2001:db8::1]:50000"),
		"::ffff:203.0.113.7 50000 ::ffff:192.0.2.2 22": own("192.0.2.2:22", "203.0.113.7:50000"),
		"fe80::1%eth0 50000 fe80::2%eth0 22":           own("[fe80::2]:22", "[fe80::1]:50000"),
		"":                                             {},
		"203.0.113.7 50000":                            {},
		"203.0.113.7 50000 192.0.2.2":                  {},
		"203.0.113.7 50000 192.0.2.2 22 ":              {},
		"203.0.113.7  50000 192.0.2.2 22":              {},
		"203.0.113.7 50000 192.0.2.2 0":                {},
		"203.0.113.7 0 192.0.2.2 22":                   {},
		"203.0.113.7 50000 192.0.2.2 65536":            {},
		"203.0.113.7 50000 192.0.2.2 -22":              {},
		"203.0.113.7 50000 192.0.2.2 22\n":             {},
		"client 50000 192.0.2.2 22":                    {},
		"203.0.113.7 50000 server 22":                  {},
		"UNKNOWN 65535 UNKNOWN 65535":                  {},
		"[2001:db8::1] 50000 [2001:db8::2] 22":         {},
		"203.0.113.007 50000 192.0.2.2 22":             {},
	} {
		got, ok := parseConnection(text)
		if ok != want.Own || got != want {
			t.Errorf("%q: got %v, %v; want %v", text, got, ok, want)
		}
	}
}

func own(local, remote string) Session {
	return Session{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Own: true}
}

func TestOwnSession(t *testing.T) {
	const outer, inner = "203.0.113.7 50000 192.0.2.2 22", "203.0.113.8 50000 192.0.2.2 22"
	environ := func(connection string) string {
		return "HOME=/root\x00XSSH_CONNECTION=" + inner + "\x00SSH_CONNECTION=" + connection + "\x00"
	}
	// systemd, sshd, the shell of the session, sudo, cfwall.
	chain := func(changes map[string]string) map[string]string {
		files := map[string]string{
			"proc/1/stat": "1 (systemd) S 0 1", "proc/1/environ": environ(inner),
			"proc/812/stat": "812 (sshd) S 1 812", "proc/812/environ": "",
			"proc/900/stat": "900 (bash) S 812 900", "proc/900/environ": environ(outer),
			"proc/901/stat": "901 (sudo) S 900 901", "proc/901/environ": environ(outer),
			"proc/902/stat": "902 (cfwall) S 901 902", "proc/902/environ": "SUDO_USER=a\x00",
		}
		maps.Copy(files, changes)
		return files
	}
	for _, c := range []struct {
		name, connection string
		files            map[string]string
		want             string
	}{
		{"its own environment", outer, nil, outer},
		{"its own environment first", inner, chain(nil), inner},
		{"below sudo", "", chain(nil), outer},
		{"nonsense in its environment", "nonsense", chain(nil), outer},
		{"what it was started with", "", chain(map[string]string{"proc/902/environ": environ(inner)}), inner},
		{"nonsense on the way", "", chain(map[string]string{"proc/901/environ": environ("nonsense")}), outer},
		{"a session within a session", "", chain(map[string]string{"proc/901/environ": environ(inner)}), inner},
		{"a strange name", "", chain(map[string]string{"proc/901/stat": "901 (a) S 1 (b) S 900 901", "proc/901/environ": ""}), outer},
		{"the environment of systemd does not count", "", chain(map[string]string{"proc/900/environ": "", "proc/901/environ": ""}), ""},
		{"a way that ends", "", chain(map[string]string{"proc/901/stat": "", "proc/901/environ": ""}), ""},
		{"a circle", "", chain(map[string]string{"proc/900/stat": "900 (bash) S 902 900", "proc/900/environ": "", "proc/901/environ": ""}), ""},
		{"no processes at all", "", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, _ := parseConnection(c.want)
			got, ok := OwnSession(lay(t, c.files), 902, c.connection)
			if got != want || ok != (c.want != "") {
				t.Errorf("got %v, %v; want %v", got, ok, want)
			}
		})
	}
}

// A session is as old as the first process that belongs to it, whatever has been
// started in it since.
func TestBegan(t *testing.T) {
	const one, other = "203.0.113.7 50000 192.0.2.2 22", "203.0.113.8 50000 192.0.2.2 22"
	stat := func(name string, parent string, hundredths string) string {
		return "7 (" + name + ") S " + parent + strings.Repeat(" 0", 17) + " " + hundredths + " 0 0\n"
	}
	environ := func(connection string) string { return "HOME=/root\x00SSH_CONNECTION=" + connection + "\x00" }
	// systemd, tmux of a session, a shell in it, sudo, cfwall.
	files := map[string]string{
		"proc/1/stat": stat("systemd", "0", "1"), "proc/1/environ": environ(one),
		"proc/800/stat": stat("tmux: server", "1", "100"), "proc/800/environ": environ(one),
		"proc/900/stat": stat("a) S 1 (b", "800", "200"), "proc/900/environ": environ(one),
		"proc/901/stat": stat("sudo", "900", "301"), "proc/901/environ": "",
		"proc/902/stat": stat("cfwall", "901", "302"), "proc/902/environ": "",
	}
	for name, c := range map[string]struct {
		connection string
		shell      string
		want       time.Duration
	}{
		"kept by tmux":                     {one, environ(one), time.Second},
		"a new one, that has joined tmux":  {other, environ(other), 2 * time.Second},
		"only the program itself knows it": {other, environ(one), 3020 * time.Millisecond},
	} {
		files["proc/900/environ"] = c.shell
		session, _ := parseConnection(c.connection)
		if got := Began(lay(t, files), 902, session); got != c.want {
			t.Errorf("%s: it began at %v, want %v", name, got, c.want)
		}
	}
	if got := Began(lay(t, nil), 902, Session{}); got != 0 {
		t.Errorf("without processes: %v", got)
	}
}
