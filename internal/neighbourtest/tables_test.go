package neighbourtest

import (
	"encoding/json"
	"strings"

	"github.com/google/go-cmp/cmp"
)

// theirs is all that the kernel holds of the neighbours, byte by byte: what nft
// lists, and what the iptables programs list of matches that nft cannot read,
// counters and handles included.
func (m *machine) theirs() string {
	m.Helper()
	var list struct {
		Objects []map[string]json.RawMessage `json:"nftables"`
	}
	m.check(json.Unmarshal([]byte(m.run("nft", "-j", "list", "ruleset")), &list))
	var b strings.Builder
	for _, object := range list.Objects {
		for kind, text := range object {
			if kind != "metainfo" && !m.isOurs(kind, text) {
				b.WriteString(kind + " " + string(text) + "\n")
			}
		}
	}
	b.WriteString(m.listCompat("iptables-save"))
	b.WriteString(m.listCompat("ip6tables-save"))
	return b.String()
}

func (m *machine) isOurs(kind string, text json.RawMessage) bool {
	m.Helper()
	var object struct{ Table, Name string }
	m.check(json.Unmarshal(text, &object))
	return object.Table == "cfwall" || kind == "table" && object.Name == "cfwall"
}

// listCompat leaves out the comments, which hold the time.
func (m *machine) listCompat(program string) string {
	m.Helper()
	var b strings.Builder
	for line := range strings.Lines(m.run(program, "-c")) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// liveBeside lives our whole life and looks after every step whether the
// neighbours' tables are as they were.
func (m *machine) liveBeside() {
	m.Helper()
	before := m.theirs()
	if before == "" {
		m.Fatal("the neighbour has no tables")
	}
	for _, s := range ourLife() {
		s.do(m)
		if diff := cmp.Diff(before, m.theirs()); diff != "" {
			m.Fatalf("after %s of ours, the neighbour's tables (- before, + after):\n%s", s.what, diff)
		}
	}
}
