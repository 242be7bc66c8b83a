package kernel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
	"github.com/cfwall/cfwall/internal/lab"
)

// edits are what others may do to our table with nft. HANDLE stands for the
// number of the rule of chain closed that drops IPv4.
var edits = map[string]string{
	"rule added":                 `add rule inet cfwall cloudflare ip saddr 198.51.100.1 accept`,
	"rule inserted":              `insert rule inet cfwall guard accept`,
	"rule added twice":           `add rule inet cfwall closed counter name "dropped4" drop comment "everyone else"`,
	"rule replaced":              `replace rule inet cfwall closed handle HANDLE ip saddr 198.51.100.1 drop`,
	"rule deleted":               `delete rule inet cfwall closed handle HANDLE`,
	"verdict changed":            `replace rule inet cfwall closed handle HANDLE counter name "dropped4" accept comment "everyone else"`,
	"verdict left out":           `replace rule inet cfwall closed handle HANDLE counter name "dropped4" comment "everyone else"`,
	"verdict and jump":           `add chain inet cfwall x; replace rule inet cfwall closed handle HANDLE counter name "dropped4" jump x comment "everyone else"`,
	"comment changed":            `replace rule inet cfwall closed handle HANDLE counter name "dropped4" drop comment "nobody else"`,
	"comment removed":            `replace rule inet cfwall closed handle HANDLE counter name "dropped4" drop`,
	"another counter":            `replace rule inet cfwall closed handle HANDLE counter name "dropped6" drop comment "everyone else"`,
	"limit":                      `replace rule inet cfwall closed handle HANDLE limit rate 1/second counter name "dropped4" drop comment "everyone else"`,
	"counter rule inserted":      `insert rule inet cfwall closed counter`,
	"mark rule inserted":         `insert rule inet cfwall guard meta mark 1 accept`,
	"rule with a set of its own": `insert rule inet cfwall guard ip saddr { 198.51.100.1, 198.51.100.9 } accept`,
	"rule with a map of its own": `insert rule inet cfwall guard tcp dport vmap { 80 : accept, 443 : goto closed }`,
	"rule with a meter":          `insert rule inet cfwall guard tcp dport 443 meter m { ip saddr limit rate 5/second } accept`,
	"log and notrack":            `insert rule inet cfwall guard log prefix "x" notrack`,
	"chain flushed":              `flush chain inet cfwall closed`,
	"base chain flushed":         `flush chain inet cfwall guard`,
	"table flushed":              `flush table inet cfwall`,
	"table deleted":              `delete table inet cfwall`,
	"table dormant":              `add table inet cfwall { flags dormant; }`,
	"element added":              `add element inet cfwall cloudflare4 { 198.51.100.0/24 }`,
	"range added":                `add element inet cfwall cloudflare6 { 2001:db8::5-2001:db8::77 }`,
	"element for ever":           `add element inet cfwall allowed4 { 198.51.100.1 }`,
	"element for an hour":        `add element inet cfwall allowed4 { 198.51.100.1 timeout 1h }`,
	"everybody added":            `flush set inet cfwall cloudflare4; add element inet cfwall cloudflare4 { 0.0.0.0/0 }`,
	"element removed":            `delete element inet cfwall cloudflare4 { 104.16.0.0/13 }`,
	"element shortened":          `delete element inet cfwall cloudflare4 { 104.16.0.0/13 }; add element inet cfwall cloudflare4 { 104.16.0.0/14 }`,
	"element split":              `delete element inet cfwall cloudflare4 { 104.16.0.0/13 }; add element inet cfwall cloudflare4 { 104.16.0.0/14, 104.20.0.0/14 }`,
	"interface added":            `add element inet cfwall trusted_interfaces { "eth0" }`,
	"set flushed":                `flush set inet cfwall cloudflare6`,
	"chain added":                `add chain inet cfwall x`,
	"chain renamed":              `rename chain inet cfwall closed x`,
	"chains that lead on":        `add chain inet cfwall y; add chain inet cfwall x; add rule inet cfwall x goto y; insert rule inet cfwall closed jump x`,
	"base chain added":           `add chain inet cfwall x { type filter hook input priority 0; policy drop; }`,
	"base chain with rules":      `add chain inet cfwall x { type filter hook prerouting priority -310; }; add rule inet cfwall x ip saddr @cloudflare4 drop`,
	"set added":                  `add set inet cfwall x { type ipv4_addr; }; add element inet cfwall x { 198.51.100.1 }; insert rule inet cfwall guard ip saddr @x accept`,
	"map added":                  `add map inet cfwall x { type inet_service : verdict; }; add element inet cfwall x { 443 : goto closed }`,
	"map to a chain":             `add chain inet cfwall y; add map inet cfwall x { type inet_service : verdict; }; add element inet cfwall x { 443 : goto y }`,
	"dynamic set added":          `add set inet cfwall x { type ipv4_addr; size 9; flags dynamic; }; insert rule inet cfwall guard add @x { ip saddr }`,
	"counter added":              `add counter inet cfwall x; insert rule inet cfwall guard counter name x`,
	"quota added":                `add quota inet cfwall x { over 1 mbytes; }; insert rule inet cfwall guard quota name x`,
	"quota of a counter's name":  `add quota inet cfwall dropped4 { over 1 mbytes; }`,
	"limit added":                `add limit inet cfwall x { rate 1/second; }`,
	"map of counters added":      `add map inet cfwall x { type ipv4_addr : counter; }; add element inet cfwall x { 192.0.2.1 : "dropped4" }`,
	"counter deleted":            `flush chain inet cfwall closed; delete counter inet cfwall dropped4`,
	"policy changed":             `add chain inet cfwall guard { policy drop; }`,
	"priority changed":           rehook(`type filter hook prerouting priority 0;`),
	"hook changed":               rehook(`type filter hook input priority -300;`),
	"type changed":               rehook(`type nat hook prerouting priority -100;`),
	"base chain unhooked":        rehook(``),
	"unhooked and led to":        rehook(``) + `; add chain inet cfwall x { type filter hook prerouting priority 0; }; add rule inet cfwall x jump guard`,
	"unhooked and mapped to":     rehook(``) + `; add map inet cfwall x { type inet_service : verdict; }; add element inet cfwall x { 443 : goto guard }`,
	"chain hooked":               `flush table inet cfwall; delete chain inet cfwall closed; add chain inet cfwall closed { type filter hook prerouting priority 0; }`,
	"chain deleted":              `flush table inet cfwall; delete chain inet cfwall closed`,
	"set deleted":                reset(`cloudflare4`, ``),
	"set of another type":        reset(`cloudflare4`, `type ipv6_addr; flags interval;`),
	"set without intervals":      reset(`cloudflare4`, `type ipv4_addr;`),
	"set with timeouts":          reset(`cloudflare4`, `type ipv4_addr; flags interval,timeout;`),
	"set without timeouts":       reset(`allowed4`, `type ipv4_addr; flags interval;`),
	"set with a time limit":      reset(`allowed4`, `type ipv4_addr; flags interval,timeout; timeout 1h;`),
	"set with a size":            reset(`cloudflare4`, `type ipv4_addr; flags interval; size 3;`),
	"set with counters":          reset(`cloudflare4`, `type ipv4_addr; flags interval; counter;`),
	"set of pairs":               reset(`cloudflare4`, `type ipv4_addr . inet_service; flags interval;`),
	"set of interface patterns":  reset(`trusted_interfaces`, `type ifname; flags interval;`),
	"map instead of a set":       reset(`trusted_interfaces`, ``) + `; add map inet cfwall trusted_interfaces { type ifname : verdict; }`,
	"two sets and no chains":     reset(`cloudflare4`, `type ipv4_addr;`) + `; delete chain inet cfwall guard; delete chain inet cfwall cloudflare; delete chain inet cfwall closed`,
	"two sets and no counters":   reset(`cloudflare4`, `type ipv4_addr;`) + `; delete counter inet cfwall dropped4; delete counter inet cfwall dropped6`,
}

// rehook makes the base chain anew, without rules.
func rehook(hook string) string {
	s := `flush chain inet cfwall guard; delete chain inet cfwall guard; add chain inet cfwall guard`
	if hook == "" {
		return s
	}
	return s + ` { ` + hook + ` }`
}

// reset makes a set anew, which takes the rules away.
func reset(set, shape string) string {
	s := `flush table inet cfwall; delete set inet cfwall ` + set
	if shape == "" {
		return s
	}
	return s + fmt.Sprintf(`; add set inet cfwall %s { %s }`, set, shape)
}

func drifter(t *testing.T) firewall.Ruleset {
	s := cases.Load(t, "port-ranges").Situation
	s.Lists.Cloudflare = cases.Published(t)
	s.Policy.Allow = list("192.0.2.0/24")
	s.Policy.Interfaces = []string{"wg0"}
	return s.Build(t)
}

func TestForeignEditsAreFoundAndRepaired(t *testing.T) {
	h := newHost(t)
	const neighbours = `
		table ip nat { chain prerouting { type nat hook prerouting priority -100; tcp dport 8080 dnat to 192.0.2.1; }; }
		table ip cfwall { set cloudflare4 { type ipv4_addr; elements = { 192.0.2.1 }; }; chain guard { ip saddr @cloudflare4 counter accept; }; }
		table inet cfwall2 { counter dropped4 { }; chain closed { counter name dropped4 drop; }; }
		table inet filter { chain input { type filter hook input priority 0; policy drop; iif lo accept; }; }`
	h.nft(t, strings.ReplaceAll(neighbours, "; }", ";\n}"), "-f", "-")
	others := []string{"ip nat", "ip cfwall", "inet cfwall2", "inet filter"}
	look := func() (lists []string) {
		for _, o := range others {
			lists = append(lists, h.nft(t, "", append([]string{"-j", "list", "table"}, strings.Fields(o)...)...))
		}
		return lists
	}
	before := look()
	want := drifter(t)
	h.enforce(t, want)
	listed := h.list(t, want.Family)
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			lab.Kernel(t)
			if out, err := h.edit(t, edit); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if firewall.MakePlan(h.read(t, want.Family), want).Empty() {
				t.Error("not found")
			}
			if plans := h.enforce(t, want); plans != 1 {
				t.Errorf("took %d plans", plans)
			}
			h.expect(t, want)
		})
		h.remove(t, want.Family)
		h.enforce(t, want)
		if diff := cmp.Diff(listed, h.list(t, want.Family)); diff != "" {
			t.Fatalf("the table differs from the first:\n%s", diff)
		}
	}
	if diff := cmp.Diff(before, look()); diff != "" {
		t.Errorf("the tables of others changed:\n%s", diff)
	}
}

// edit does one of the edits.
func (h host) edit(t lab.T, commands string) (output string, err error) {
	t.Helper()
	if table := h.read(t, firewall.FamilyINET).Table; table != nil {
		closed, _ := table.Chain("closed")
		if n := len(closed.Rules); n > 0 {
			commands = strings.ReplaceAll(commands, "HANDLE", fmt.Sprint(closed.Rules[n-1].Handle))
		}
	}
	return h.try(commands+"\n", "-f", "-")
}

// TestManyForeignEditsAreRepaired does several edits, of which later ones may
// fail for what earlier ones did.
func TestManyForeignEditsAreRepaired(t *testing.T) {
	h := newHost(t)
	want := drifter(t)
	names := slices.Sorted(maps.Keys(edits))
	rapid.Check(t, func(t *rapid.T) {
		h.enforce(t, want)
		for _, name := range rapid.SliceOfN(rapid.SampledFrom(names), 2, 6).Draw(t, "edits") {
			_, _ = h.edit(t, edits[name])
		}
		h.enforce(t, want)
	})
}

func TestEqualRuleIsNoDrift(t *testing.T) {
	h := newHost(t)
	want := drifter(t)
	h.enforce(t, want)
	if out, err := h.edit(t, `replace rule inet cfwall closed handle HANDLE counter name "dropped4" drop comment "everyone else"`); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.expect(t, want)
}

// TestNothingToDoIsNoWrite: the generation counts every change of any table.
func TestNothingToDoIsNoWrite(t *testing.T) {
	for _, name := range []string{"default", "everything", "no-ipv6", "many-ports"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			want := cases.Load(t, name).Build(t)
			h.enforce(t, want)
			before := h.generation(t)
			for range 100 {
				if err := h.apply(firewall.MakePlan(h.read(t, want.Family), want)); err != nil {
					t.Fatal(err)
				}
			}
			if after := h.generation(t); after != before {
				t.Errorf("the generation went from %d to %d", before, after)
			}
		})
	}
}

func TestCountersSurviveChanges(t *testing.T) {
	lab.Kernel(t)
	site := lab.NewSite(t)
	h := host{site.Web, New()}
	s := ordinary(t)
	h.enforce(t, s.Build(t))
	site.Client.DialMany([]lab.Probe{
		{Network: "udp", From: lab.Client4, To: netip.AddrPortFrom(lab.Web4, 443)},
		{Network: "tcp", From: lab.Client6, To: netip.AddrPortFrom(lab.Web6, 443)},
	})
	before := h.counters(t)
	if before["dropped4"] == 0 || before["dropped6"] == 0 {
		t.Fatalf("nothing was counted: %v", before)
	}
	s.Lists.Cloudflare = list("104.16.0.0/12 2606:4700::/31")
	h.enforce(t, s.Build(t))
	s.Policy.UDP, s.Policy.Allow, s.Host.Forwards = nil, list("192.0.2.128/25"), true
	h.enforce(t, s.Build(t))
	if diff := cmp.Diff(before, h.counters(t)); diff != "" {
		t.Errorf("counters (-before +after):\n%s", diff)
	}
}

func (h host) counters(t *testing.T) map[string]uint64 {
	t.Helper()
	packets := map[string]uint64{}
	for _, c := range h.read(t, firewall.FamilyINET).Table.Counters {
		packets[c.Name] = c.Packets
	}
	return packets
}

func TestRemove(t *testing.T) {
	h := newHost(t)
	want := drifter(t)
	h.enforce(t, want)
	h.nft(t, "add table inet other; add table ip cfwall\n", "-f", "-")
	h.remove(t, want.Family)
	if table := h.read(t, want.Family).Table; table != nil {
		t.Errorf("there is still a table: %v", table)
	}
	if got := h.nft(t, "", "list", "tables"); got != "table inet other\ntable ip cfwall\n" {
		t.Errorf("tables left: %q", got)
	}
	h.remove(t, want.Family) // once more is no error
}
