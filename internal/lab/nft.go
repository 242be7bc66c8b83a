package lab

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
)

// Nft loads a script into the host with the nft program, as one transaction.
func (h *Host) Nft(t T, script string) {
	t.Helper()
	if _, err := h.nft(script, "-f", "-"); err != nil {
		t.Fatalf("%s: loading rules: %v\n%s", h, err, script)
	}
}

// NftList returns what `nft list ARGS` prints in the host.
func (h *Host) NftList(t T, args ...string) string {
	t.Helper()
	out, err := h.nft("", append([]string{"list"}, args...)...)
	if err != nil {
		t.Fatalf("%s: listing %s: %v", h, strings.Join(args, " "), err)
	}
	return out
}

func (h *Host) nft(input string, args ...string) (string, error) {
	var out, complaint strings.Builder
	cmd := exec.Command("nft", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &complaint
	var err error
	h.Do(func() { err = cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%w %s", err, complaint.String())
	}
	return out.String(), nil
}

// Arrivals counts a kind of packet on both sides of the host's firewall.
type Arrivals struct {
	host  *Host
	table string
}

// CountArrivals counts the packets for a port, tcp or udp, that come from any
// of the sources (from anywhere if there are none). It does so in a table of
// its own just before and just after prerouting priority raw (-300), where
// cfwall filters: what a port that DNAT moves is called on the wire.
func (h *Host) CountArrivals(t T, network string, port uint16, sources ...netip.Prefix) *Arrivals {
	t.Helper()
	h.observers++
	a := &Arrivals{h, fmt.Sprintf("observer%d", h.observers)}
	if len(sources) == 0 {
		sources = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	}
	h.Nft(t, fmt.Sprintf(`table inet %s {
		counter before { }
		counter after { }
		chain before { type filter hook prerouting priority -310;
%s		}
		chain after { type filter hook prerouting priority -290;
%s		}
	}`, a.table, countRules("before", network, port, sources), countRules("after", network, port, sources)))
	return a
}

func countRules(counter, network string, port uint16, sources []netip.Prefix) string {
	var b strings.Builder
	for _, s := range sources {
		family := "ip"
		if s.Addr().Is6() {
			family = "ip6"
		}
		fmt.Fprintf(&b, "\t\t\t%s saddr %s %s dport %d counter name %s\n", family, s, network, port, counter)
	}
	return b.String()
}

// Read returns how many packets came to the firewall, and how many got past it.
func (a *Arrivals) Read(t T) (before, after int) {
	t.Helper()
	return a.host.Counter(t, a.table, "before"), a.host.Counter(t, a.table, "after")
}

// Counter returns how many packets a named counter of an inet table has seen.
func (h *Host) Counter(t T, table, counter string) (packets int) {
	t.Helper()
	out := h.NftList(t, "counter", "inet", table, counter)
	_, figures, _ := strings.Cut(out, "packets ")
	if _, err := fmt.Sscan(figures, &packets); err != nil {
		t.Fatalf("%s: reading counter %s: %v in %q", h, counter, err, out)
	}
	return packets
}
