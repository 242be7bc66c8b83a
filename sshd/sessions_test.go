package sshd

import (
	"maps"
	"net/netip"
	"testing"
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
	return Session{netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote), true}
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
