package ipranges

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestListJSON(t *testing.T) {
	tests := []struct {
		name string
		list List
		want string
	}{
		{"empty", List{}, `[]`},
		{"one", networks("192.0.2.0/24"), `["192.0.2.0/24"]`},
		{"both families, sorted and merged", networks("2001:db8::/32 192.0.2.128/25 192.0.2.0/25"), `["192.0.2.0/24","2001:db8::/32"]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := json.Marshal(tt.list)
			if err != nil || string(got) != tt.want {
				t.Fatalf("got %s, %v; want %s", got, err, tt.want)
			}
			var back List
			if err := json.Unmarshal(got, &back); err != nil || !back.Equal(tt.list) {
				t.Fatalf("read back %v, %v", back, err)
			}
		})
	}
}

func TestListJSONRefuses(t *testing.T) {
	for _, text := range []string{
		`"192.0.2.0/24"`, `[1]`, `{}`, `["192.0.2.0"]`, `["192.0.2.1/24"]`, `["::ffff:192.0.2.0/120"]`,
		`["fe80::%eth0/64"]`, `["192.0.2.0/024"]`, `[" 192.0.2.0/24"]`, `[""]`, `["192.0.2.0/24","x"]`,
	} {
		kept := networks("198.51.100.0/24")
		l := kept
		if err := json.Unmarshal([]byte(text), &l); err == nil {
			t.Errorf("%s was read as %v", text, l)
		}
		if !l.Equal(kept) {
			t.Errorf("%s changed the list to %v", text, l)
		}
	}
}

func TestListSets(t *testing.T) {
	a, b := networks("10.0.0.0/24 2001:db8::/32"), networks("10.0.0.128/25 10.0.1.0/24")
	if diff := cmp.Diff(networks("10.0.0.0/23 2001:db8::/32"), a.Union(b)); diff != "" {
		t.Errorf("union (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(networks("10.0.0.0/25 2001:db8::/32"), a.Minus(b)); diff != "" {
		t.Errorf("minus (-want +got):\n%s", diff)
	}
	if got := a.String(); got != "10.0.0.0/24\n2001:db8::/32\n" {
		t.Errorf("printed %q", got)
	}
}

func TestListLookup(t *testing.T) {
	l := networks("10.0.0.0/24 10.0.2.0/24 2001:db8::/32")
	tests := map[string]string{
		"9.255.255.255": "", "10.0.0.0": "10.0.0.0/24", "10.0.0.255": "10.0.0.0/24", "10.0.1.0": "",
		"10.0.2.7": "10.0.2.0/24", "10.0.3.0": "", "2001:db8::1": "2001:db8::/32", "2001:db9::": "", "::": "",
	}
	for addr, want := range tests {
		got, found := l.Lookup(netip.MustParseAddr(addr))
		if found != (want != "") || (found && got.String() != want) {
			t.Errorf("%s: %v, %v; want %q", addr, got, found, want)
		}
	}
}
