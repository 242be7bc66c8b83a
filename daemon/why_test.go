package daemon

import (
	"errors"
	"net/netip"
	"testing"
)

func TestWhyOutgoing(t *testing.T) {
	e, table, _ := newTestEngine(t)
	e.table = modeTable{table}
	e.user = func(name string) (uint32, error) {
		if name == "cloudflared" {
			return 999, nil
		}
		return 0, errors.New("no such user")
	}
	ask := func(to string, port uint16, protocol, user string) string {
		t.Helper()
		x, err := e.Why(t.Context(), Question{Source: netip.MustParseAddr(to), Port: port, Protocol: protocol, Outgoing: true, User: user})
		if err != nil {
			return err.Error()
		}
		return x.Verdict
	}
	if _, err := e.Apply(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	if got := ask("203.0.113.9", 25, "tcp", ""); got != NotGuarded {
		t.Errorf("nothing is filtered, but: %s", got)
	}
	writeFile(t, e.paths.Config, "[outbound]\npolicy = \"drop\"\nallow = [\"25/tcp to 203.0.113.25\"]\n[tunnel]\nuser = \"cloudflared\"\n")
	if _, err := e.Apply(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		to       string
		port     uint16
		protocol string
		user     string
		want     string
	}{
		{"203.0.113.25", 25, "tcp", "", Admitted},
		{"203.0.113.9", 25, "tcp", "", Dropped},
		{"198.41.192.27", 7844, "udp", "cloudflared", Admitted},
		{"198.41.192.27", 7844, "udp", "", Dropped},
		{"2606:4700:a0::1", 7844, "tcp", "cloudflared", Admitted},
		{"192.0.2.53", 53, "udp", "", Admitted},
		{"203.0.113.25", 25, "tcp", "nobody-here", "no such user"},
	} {
		if got := ask(c.to, c.port, c.protocol, c.user); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}
