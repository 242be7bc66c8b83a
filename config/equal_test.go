package config

import (
	"strings"
	"testing"
)

func TestEqual(t *testing.T) {
	for name, test := range map[string]struct {
		a, b string
		want bool
	}{
		"the default, in so many words": {"", Reference, true},
		"comments":                      {"web.tcp = [443]", "# HTTPS\n[web]\ntcp = [443] # alone\n", true},
		"order":                         {"web.tcp = [443, 80]", "web.tcp = [80, 443]", true},
		"empty arrays":                  {"", "allow.from = []\nallow.interfaces = []\noutbound.allow = []", true},
		"a port":                        {"web.tcp = [443]", "web.tcp = [80, 443]", false},
		"a network":                     {"", "allow.from = ['192.0.2.7']", false},
		"another network":               {"allow.from = ['192.0.2.8']", "allow.from = ['192.0.2.7']", false},
		"audit":                         {"", "audit = true", false},
		"a schedule":                    {"", "ranges.schedule = '@every 7h'", false},
		"a level":                       {"", "log.level = 'warn'", false},
		"a port that is open":           {"inbound.open = ['22/tcp']", "inbound.open = ['22/tcp from 192.0.2.7']", false},
		"nothing open":                  {"", "inbound.open = []", false},
	} {
		t.Run(name, func(t *testing.T) {
			a, errA := Parse(strings.NewReader(test.a), "a")
			b, errB := Parse(strings.NewReader(test.b), "b")
			if errA != nil || errB != nil {
				t.Fatal(errA, errB)
			}
			if a.Equal(b) != test.want || b.Equal(a) != test.want || !a.Equal(a) {
				t.Errorf("equal: %t, want %t", a.Equal(b), test.want)
			}
		})
	}
}
