package daemon

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
)

// A mutator makes commands for nft that change a table of ours in some way.
type mutator struct {
	*rand.Rand
	table firewall.Ruleset
}

func pickOne[T any](m mutator, all []T) T { return all[m.IntN(len(all))] }

// mutation is one to three changes in one transaction.
func (m mutator) mutation() string {
	var commands []string
	for range 1 + m.IntN(3) {
		commands = append(commands, pickOne(m, []func() string{
			m.element, m.element, m.element, m.rule, m.rule, m.rule, m.chain, m.set, m.object, m.whole,
		})())
	}
	return strings.Join(commands, "; ")
}

func (m mutator) element() string {
	set := pickOne(m, slices.DeleteFunc(slices.Clone(m.table.Sets), func(s firewall.Set) bool { return s.Type.RuleFilled() }))
	switch {
	case set.Type == firewall.TypeInterface:
		return fmt.Sprintf("add element inet cfwall %s { \"eth%d\" }", set.Name, m.IntN(9))
	case len(set.Elements) > 0 && m.IntN(2) == 0:
		return fmt.Sprintf("delete element inet cfwall %s { %s }", set.Name, firewall.RangeString(pickOne(m, set.Elements).Range))
	}
	network := fmt.Sprintf("100.%d.%d.0/24", m.IntN(256), m.IntN(256))
	if set.Type == firewall.TypeIPv6 {
		network = fmt.Sprintf("2a00:%x::/32", 1+m.IntN(1<<16-1))
	}
	if set.Timeouts && m.IntN(2) == 0 {
		network += fmt.Sprintf(" timeout %dh", 1+m.IntN(50))
	}
	return fmt.Sprintf("add element inet cfwall %s { %s }", set.Name, network)
}

// foreignRules are what others may put into a chain of ours.
var foreignRules = []string{
	"accept", "drop", "counter", "ip saddr 198.51.100.0/24 accept", "tcp dport 443 accept", "udp dport { 80, 443 } drop",
	"ip saddr @cloudflare4 drop", "meta mark 7 accept", "limit rate 5/second accept", `iifname "eth*" accept`, `log prefix "x" accept`,
	"tcp dport vmap { 80 : accept, 443 : drop }", "ct state established accept", "fib daddr type local accept", "meta mark set 7", "notrack",
}

func (m mutator) rule() string {
	chain := pickOne(m, m.table.Chains)
	if len(chain.Rules) == 0 || m.IntN(3) == 0 {
		return fmt.Sprintf("%s rule inet cfwall %s %s", pickOne(m, []string{"add", "insert"}), chain.Name, pickOne(m, foreignRules))
	}
	handle := pickOne(m, chain.Rules).Handle
	if m.IntN(2) == 0 {
		return fmt.Sprintf("delete rule inet cfwall %s handle %d", chain.Name, handle)
	}
	return fmt.Sprintf("replace rule inet cfwall %s handle %d %s", chain.Name, handle, pickOne(m, foreignRules))
}

func (m mutator) chain() string {
	name := pickOne(m, m.table.Chains).Name
	fresh := fmt.Sprintf("x%d", m.IntN(1000))
	hooked := fmt.Sprintf("add chain inet cfwall %s { type filter hook %s priority %d; }", fresh, pickOne(m, []string{"prerouting", "input", "forward", "output", "postrouting"}), m.IntN(600)-300)
	return pickOne(m, []string{
		"flush chain inet cfwall " + name,
		"add chain inet cfwall " + fresh,
		hooked,
		hooked + fmt.Sprintf("; add rule inet cfwall %s %s", fresh, pickOne(m, foreignRules)),
		fmt.Sprintf("add chain inet cfwall %s; insert rule inet cfwall guard jump %[1]s", fresh),
		"add chain inet cfwall guard { policy drop; }",
		fmt.Sprintf("rename chain inet cfwall closed %s", fresh),
	})
}

func (m mutator) set() string {
	fresh := fmt.Sprintf("y%d", m.IntN(1000))
	return pickOne(m, []string{
		"flush set inet cfwall cloudflare4",
		"flush set inet cfwall cloudflare6",
		"flush table inet cfwall; delete set inet cfwall " + pickOne(m, []string{"cloudflare4", "cloudflare6", "allowed4"}),
		"flush table inet cfwall; delete set inet cfwall cloudflare4; add set inet cfwall cloudflare4 { type ipv4_addr; }",
		fmt.Sprintf("add set inet cfwall %s { type ipv4_addr; flags interval; }", fresh),
		fmt.Sprintf("add set inet cfwall %s { type ipv4_addr; size 9; flags dynamic; }; add rule inet cfwall closed add @%[1]s { ip saddr }", fresh),
		fmt.Sprintf("add map inet cfwall %s { type inet_service : verdict; }; add element inet cfwall %[1]s { 443 : accept }; insert rule inet cfwall guard tcp dport vmap @%[1]s", fresh),
	})
}

func (m mutator) object() string {
	fresh := fmt.Sprintf("z%d", m.IntN(1000))
	return pickOne(m, []string{
		"add counter inet cfwall " + fresh,
		fmt.Sprintf("add quota inet cfwall %s { over %d mbytes; }", fresh, 1+m.IntN(9)),
		fmt.Sprintf("add limit inet cfwall %s { rate %d/second; }", fresh, 1+m.IntN(9)),
		"flush chain inet cfwall closed; delete counter inet cfwall dropped4",
	})
}

func (m mutator) whole() string {
	return pickOne(m, []string{
		"delete table inet cfwall",
		"flush table inet cfwall",
		"add table inet cfwall { flags dormant; }",
		"delete table inet cfwall; add table inet cfwall; add chain inet cfwall guard",
		"flush ruleset",
	})
}

// ownComment is that of a table, a set, a counter or a chain, which has a line of its
// own; rules have theirs behind them.
var ownComment = regexp.MustCompile(`(?m)^\s*comment ".*"\n`)

// listing is what nft says of our table: each object on its own, in an order that
// does not depend on when it was made, and without what only explains it.
func listing(t *testing.T, h *lab.Host) string {
	t.Helper()
	text := ownComment.ReplaceAllString(h.NftList(t, "table", "inet", "cfwall"), "")
	objects := strings.Split(text, "\n\t}\n")
	for i, o := range objects {
		objects[i] = strings.TrimSpace(strings.TrimPrefix(o, "table inet cfwall {\n"))
	}
	slices.Sort(objects)
	return strings.Join(objects, "\n")
}

// mutate changes the table until nft lists it otherwise, and reports how often the
// kernel took a change.
func mutate(t *testing.T, h *lab.Host, random *rand.Rand, whole string) (commands string) {
	t.Helper()
	for range 1000 {
		m := mutator{random, *tableOf(t, h).Table}
		commands = m.mutation()
		if _, err := nft(h, commands); err != nil {
			continue // it does not go together
		}
		if tables := h.NftList(t, "tables"); !strings.Contains(tables, "table inet cfwall\n") || listing(t, h) != whole {
			return commands
		}
	}
	t.Fatal("no mutation is taken")
	return ""
}

// Without a word from the kernel, the next look finds whatever was changed, and
// puts it right: nft then lists the table as before.
func TestMutationsAreFoundWithoutEvents(t *testing.T) {
	lab.Kernel(t)
	t.Parallel()
	h := lab.New(t).Host("web")
	e := newLabEngine(t, crowdWish)
	e.table = plainTable{e.table}
	if _, err := applyIn(t, h, e, crowdWish, Order{}); err != nil {
		t.Fatal(err)
	}
	whole, random := listing(t, h), rand.New(rand.NewPCG(1000, 2026))
	for i := range amount(500, 5000) {
		commands := mutate(t, h, random, whole)
		var r Report
		var err error
		h.Do(func() { r, err = e.Pass(t.Context()) })
		if err != nil || len(r.drift) == 0 || e.repairs.Count != i+1 {
			t.Fatalf("%s\n%v, found %v, put right %d times, want %d", commands, err, r.drift, e.repairs.Count, i+1)
		}
		if got := listing(t, h); got != whole {
			t.Fatalf("%s\nthen the table is:\n%s\nwant:\n%s", commands, got, whole)
		}
	}
}

// With events they are put right at once.
func TestMutationsAreFoundByEvents(t *testing.T) {
	lab.Kernel(t)
	t.Parallel()
	s, dir := lab.NewSite(t), t.TempDir()
	writeFile(t, pathsIn(dir).Config, crowdWish.text())
	play(t, s.Web, "cfwall", daemonStandIn+"="+dir, `msg="protected`, plainStandIn+"=1")
	want := *tableOf(t, s.Web).Table
	whole, random := listing(t, s.Web), rand.New(rand.NewPCG(500, 2026))
	for range amount(500, 5000) {
		commands := ""
		for commands == "" {
			try := mutator{random, *tableOf(t, s.Web).Table}.mutation()
			if _, err := nft(s.Web, try); err == nil { // else it does not go together
				commands = try
			}
		}
		awaitTable(t, s.Web, want)
		if got := listing(t, s.Web); got != whole {
			t.Fatalf("%s\nthen the table is:\n%s\nwant:\n%s", commands, got, whole)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// awaitTable waits until the table is whole.
func awaitTable(t *testing.T, h *lab.Host, want firewall.Ruleset) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if s := tableOf(t, h); firewall.MakePlan(s, want).Empty() {
			return
		}
	}
	t.Fatalf("not put right: %s", firewall.MakePlan(tableOf(t, h), want))
}

// A meddledTable is one that another program changes right after each change of
// ours, so many times.
type meddledTable struct {
	Table
	meddle func()
	times  int
}

func (m *meddledTable) Apply(ctx context.Context, p firewall.Plan) error {
	err := m.Table.Apply(ctx, p)
	if m.times > 0 {
		m.times--
		m.meddle()
	}
	return err
}

// What is changed between writing and reading back is found each time: success is
// never reported on a table that differs.
func TestMutationsBeforeReadingBack(t *testing.T) {
	lab.Kernel(t)
	t.Parallel()
	h := lab.New(t).Host("web")
	e := newLabEngine(t, crowdWish)
	table := &meddledTable{Table: plainTable{e.table}}
	e.table = table
	if _, err := applyIn(t, h, e, crowdWish, Order{}); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(200, 2026))
	table.meddle = func() { mutate(t, h, random, listing(t, h)) }
	for range amount(150, 1500) {
		e.book.Current.List = listWith(randomNetworks(random, 3)...)
		table.times = 1 + random.IntN(2)
		var r Report
		var err error
		h.Do(func() { r, err = e.Pass(t.Context()) })
		want := wantIn(t, h, e)
		if whole := firewall.MakePlan(tableOf(t, h), want).Empty(); err != nil || len(r.drift) == 0 || !whole {
			t.Fatalf("%v, found %v, whole: %t", err, r.drift, whole)
		}
	}
	table.times = 1 << 30
	e.book.Current.List = listWith("188.42.0.0/20")
	var err error
	h.Do(func() { _, err = e.Pass(t.Context()) })
	if err == nil {
		t.Error("success is reported on a table that differs each time it is read")
	}
}

func wantIn(t *testing.T, h *lab.Host, e *Engine) (want firewall.Ruleset) {
	t.Helper()
	var err error
	h.Do(func() { want, _, err = e.Want(time.Now()) })
	if err != nil {
		t.Fatal(err)
	}
	return want
}
