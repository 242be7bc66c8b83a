package sshd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestConfiguredServers(t *testing.T) {
	const main, included = "etc/ssh/sshd_config", "etc/ssh/sshd_config.d/"
	both := func(ports ...int) (all []string) {
		for _, p := range ports {
			all = append(all, fmt.Sprintf("0.0.0.0:%d", p), fmt.Sprintf("[::]:%d", p))
		}
		return all
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"no file", nil, both(22)},
		{"an empty file", map[string]string{main: ""}, both(22)},
		{"comments", map[string]string{main: "#Port 1\n  # Port 2\n\n\t\n"}, both(22)},
		{"one port", map[string]string{main: "Port 2222\n"}, both(2222)},
		{"several", map[string]string{main: "Port 22\nPort 2222\n"}, both(22, 2222)},
		{"any case", map[string]string{main: "pORT 2222\n"}, both(2222)},
		{"an equals sign", map[string]string{main: "Port=2222\nPort = 2223\nPort =2224\n"}, both(2222, 2223, 2224)},
		{"quotes", map[string]string{main: "Port \"2222\"\nListenAddress=\"192.0.2.1\"\n"}, []string{"192.0.2.1:2222"}},
		{"a comment behind", map[string]string{main: "Port 2222 # for us\n"}, both(2222)},
		{"blanks and no newline at the end", map[string]string{main: " \tPort\t2222 \r"}, both(2222)},
		{"nonsense", map[string]string{main: "Port\nPort x\nPort 0\nPort 65536\nPort -1\nPorts 3\n=\n\"\nListenAddress 192.0.2.1:x\n"}, both(22)},
		{"below Match", map[string]string{main: "Port 2222\nmatch User a\nPort 3\nListenAddress 192.0.2.1\n"}, both(2222)},
		{"IPv4 only", map[string]string{main: "AddressFamily inet\n"}, []string{"0.0.0.0:22"}},
		{"IPv6 only", map[string]string{main: "AddressFamily INET6\n"}, []string{"[::]:22"}},
		{"the first family counts", map[string]string{main: "AddressFamily any\nAddressFamily inet\n"}, both(22)},
		{"addresses", map[string]string{main: "ListenAddress 192.0.2.1\nListenAddress 2001:db8::1\nListenAddress ::\n"}, []string{"192.0.2.1:22", "[2001:db8::1]:22", "[::]:22"}},
		{"addresses before ports", map[string]string{main: "ListenAddress 192.0.2.1\nPort 22\nPort 2222\n"}, []string{"192.0.2.1:22", "192.0.2.1:2222"}},
		{"addresses with ports", map[string]string{main: "Port 1\nListenAddress 192.0.2.1:2222\nListenAddress [2001:db8::1]:2223\nListenAddress [2001:db8::2]\nListenAddress 0.0.0.0:443\n"},
			[]string{"192.0.2.1:2222", "[2001:db8::1]:2223", "[2001:db8::2]:1", "0.0.0.0:443"}},
		{"a routing domain", map[string]string{main: "ListenAddress 192.0.2.1 rdomain 4\n"}, []string{"192.0.2.1:22"}},
		{"a zone", map[string]string{main: "ListenAddress fe80::1%eth0\nListenAddress [fe80::2%eth0]:2222\n"}, []string{"[fe80::1]:22", "[fe80::2]:2222"}},
		{"names, which may be any address", map[string]string{main: "AddressFamily inet\nListenAddress www.example.com\nListenAddress www:2222\n"}, []string{"0.0.0.0:22", "0.0.0.0:2222"}},
		{"included files", map[string]string{
			main: "Include /etc/ssh/sshd_config.d/*.conf\nPort 22\n", included + "10-a.conf": "Port 2222\n", included + "05-b.conf": "Port 443\n", included + "c.bak": "Port 1\n",
		}, both(443, 2222, 22)},
		{"included from where the file is", map[string]string{main: "include sshd_config.d/a.conf \"sshd_config.d/b.conf\"\n", included + "a.conf": "Port 1\n", included + "b.conf": "Port 2\n"}, both(1, 2)},
		{"Match in an included file ends with it", map[string]string{main: "Include sshd_config.d/*\nPort 2\n", included + "a": "Port 1\nMatch all\nPort 9\n"}, both(1, 2)},
		{"files that include each other", map[string]string{main: "Port 1\nInclude sshd_config.d/*\n", included + "a": "Port 2\nInclude *\nInclude sshd_config.d/*\n"}, both(1, 2)},
		{"a file that leads out", map[string]string{main: "Include ../../../../a /../../b\n", "a": "Port 2\n", "b": "Port 3\n"}, both(2, 3)},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := lay(t, c.files)
			cfg := config{root: root, seen: make(map[string]bool)}
			cfg.read(root + "/" + main)
			var got []string
			for _, a := range cfg.listensAt() {
				got = append(got, a.String())
			}
			if len(cfg.errs) > 0 || !slices.Equal(got, c.want) {
				t.Errorf("got %q, %v; want %q", got, cfg.errs, c.want)
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("Port 22\nListenAddress [::]:2222\nInclude *\nMatch all\n")
	f.Add("listenaddress=\"www\" # x")
	f.Add("AddressFamily inet6\nPort=1\nListenAddress ::%:1\nListenAddress ]:")
	f.Add(strings.Repeat("Port 1\nListenAddress ::\n", 1000))
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		c := config{root: root, seen: make(map[string]bool)}
		if err := c.parse(strings.NewReader(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		all := c.listensAt()
		if len(all) == 0 || len(all) > 2*most*most {
			t.Errorf("%q: listens at %d addresses", text, len(all))
		}
		for _, a := range all {
			if !a.IsValid() || a.Port() == 0 || a.Addr().Zone() != "" {
				t.Errorf("%q: listens at %v", text, a)
			}
		}
	})
}

func FuzzParseConnection(f *testing.F) {
	f.Add("203.0.113.7 50000 192.0.2.2 22")
	f.Add("fe80::1%eth0 1 ::ffff:192.0.2.2 65535")
	f.Fuzz(func(t *testing.T, text string) {
		s, ok := parseConnection(text)
		if ok && (!s.Local.IsValid() || !s.Remote.IsValid() || s.Local.Port() == 0 || s.Local.Addr().Is4In6()) {
			t.Errorf("%q: got %v", text, s)
		}
	})
}
