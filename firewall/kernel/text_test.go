package kernel

import (
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
)

// TestTextAndNetlinkMakeTheSameTable loads what `cfwall print` prints into one
// host, and writes the same ruleset into another over netlink.
func TestTextAndNetlinkMakeTheSameTable(t *testing.T) {
	for _, name := range cases.Names(t) {
		t.Run(name, func(t *testing.T) {
			want := cases.Load(t, name).Build(t)
			byText, byNetlink := newHost(t), newHost(t)
			byText.nft(t, want.String(), "-c", "-f", "-")
			byText.nft(t, want.String(), "-f", "-")
			if plans := byNetlink.enforce(t, want); plans != 1 {
				t.Errorf("took %d plans", plans)
			}
			byText.expect(t, want)
			byNetlink.expect(t, want)
			if diff := cmp.Diff(byText.list(t, want.Family), byNetlink.list(t, want.Family)); diff != "" {
				t.Errorf("nft lists (-loaded by nft +written over netlink):\n%s", diff)
			}
		})
	}
}

// left is how nft prints what is left of an element; expect has looked at it.
var left = regexp.MustCompile(`timeout \S+( expires \S+)?`)

func (h host) list(t *testing.T, family firewall.Family) string {
	t.Helper()
	return left.ReplaceAllString(h.nft(t, "", "-s", "list", "table", string(family), firewall.TableName), "timeout LEFT")
}
