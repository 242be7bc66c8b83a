package neighbours

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cure says what the administrator can do, in the words of the program that
// made the table.
func (w *walk) cure(f Finding) string {
	port := w.packet.DestinationPorts.First
	if w.packet.Reply {
		port = w.packet.SourcePorts.First
	}
	opening := fmt.Sprintf("let it accept tcp and udp port %d", port)
	switch {
	case f.Effect == Diverts:
		opening = fmt.Sprintf("exempt tcp and udp port %d from it", port)
	case f.Answers:
		opening = "let it accept answers (ct state established,related)"
	case w.madeByUFW(f) && w.packet.Path == Through:
		return fmt.Sprintf("ufw route allow to any port %d", port)
	case w.madeByUFW(f):
		return fmt.Sprintf("ufw allow out %d", port)
	}
	return opening + ": " + f.show() + " shows it"
}

// madeByUFW: its chains have names of their own, and its base chains, whose
// policy it sets, lead to them.
func (w *walk) madeByUFW(f Finding) bool {
	isUFW := func(chain string) bool { return strings.HasPrefix(chain, "ufw-") || strings.HasPrefix(chain, "ufw6-") }
	if isUFW(f.Chain) {
		return true
	}
	return slices.ContainsFunc(w.rules[chainID{f.Table, f.Chain}], func(r Rule) bool {
		return slices.ContainsFunc(r.Code(), func(i Instruction) bool {
			d, ok := i.(Decide)
			return ok && isUFW(d.Verdict.Chain)
		})
	})
}

// show is the command that lists the chain.
func (f Finding) show() string {
	iptables := []string{"filter", "nat", "mangle", "raw", "security"}
	byIPTables := strings.ToUpper(string(f.Hook))
	if slices.Contains(iptables, f.Table.Name) && (f.Chain == byIPTables || !f.Policy && strings.ToUpper(f.Chain) == f.Chain) {
		switch f.Table.Family {
		case unix.NFPROTO_IPV4:
			return fmt.Sprintf("iptables -t %s -S %s", f.Table.Name, f.Chain)
		case unix.NFPROTO_IPV6:
			return fmt.Sprintf("ip6tables -t %s -S %s", f.Table.Name, f.Chain)
		}
	}
	return fmt.Sprintf("nft -a list chain %s %s", f.Table, f.Chain)
}
