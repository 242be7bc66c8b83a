package firewall_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cfwall/cfwall/firewall"
)

type portRanges = []firewall.PortRange

func TestParsePortRange(t *testing.T) {
	tests := map[string]struct {
		want firewall.PortRange
		ok   bool
	}{
		"443":         {firewall.PortRange{First: 443, Last: 443}, true},
		"1":           {firewall.PortRange{First: 1, Last: 1}, true},
		"65535":       {firewall.PortRange{First: 65535, Last: 65535}, true},
		"8000-8010":   {firewall.PortRange{First: 8000, Last: 8010}, true},
		"80-80":       {firewall.PortRange{First: 80, Last: 80}, true},
		"1-65535":     {firewall.PortRange{First: 1, Last: 65535}, true},
		"":            {},
		"-":           {},
		"80-":         {},
		"-80":         {},
		"0":           {},
		"0-80":        {},
		"65536":       {},
		"8010-8000":   {},
		"80-90-100":   {},
		" 80":         {},
		"80 - 90":     {},
		"+80":         {},
		"0x50":        {},
		"1e3":         {},
		"80,443":      {},
		"https":       {},
		"80\n":        {},
		"8000–8010":   {}, // a dash that is no hyphen
		"99999999999": {},
	}
	for text, tt := range tests {
		t.Run(text, func(t *testing.T) {
			got, err := firewall.ParsePortRange(text)
			if got != tt.want || (err == nil) != tt.ok {
				t.Errorf("got %v, %v; want %v, ok: %t", got, err, tt.want, tt.ok)
			}
		})
	}
}

func TestMergePorts(t *testing.T) {
	tests := map[string]struct{ ranges, want portRanges }{
		"none":             {nil, nil},
		"sorted":           {portRanges{{443, 443}, {80, 80}}, portRanges{{80, 80}, {443, 443}}},
		"twice":            {portRanges{{80, 80}, {80, 80}}, portRanges{{80, 80}}},
		"touching":         {portRanges{{81, 90}, {80, 80}}, portRanges{{80, 90}}},
		"one apart":        {portRanges{{80, 80}, {82, 82}}, portRanges{{80, 80}, {82, 82}}},
		"overlapping":      {portRanges{{80, 90}, {85, 95}}, portRanges{{80, 95}}},
		"inside":           {portRanges{{80, 90}, {85, 86}}, portRanges{{80, 90}}},
		"at the end":       {portRanges{{65535, 65535}, {65000, 65535}}, portRanges{{65000, 65535}}},
		"behind the end":   {portRanges{{65535, 65535}, {1, 1}}, portRanges{{1, 1}, {65535, 65535}}},
		"all of the ports": {portRanges{{1, 40000}, {40001, 65535}}, portRanges{{1, 65535}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, firewall.MergePorts(tt.ranges)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestSubtractPorts(t *testing.T) {
	tests := map[string]struct{ ranges, others, want portRanges }{
		"nothing":          {portRanges{{80, 90}}, nil, portRanges{{80, 90}}},
		"from nothing":     {nil, portRanges{{80, 90}}, nil},
		"all":              {portRanges{{80, 90}}, portRanges{{1, 65535}}, nil},
		"the same":         {portRanges{{80, 90}}, portRanges{{80, 90}}, nil},
		"the middle":       {portRanges{{80, 90}}, portRanges{{85, 85}}, portRanges{{80, 84}, {86, 90}}},
		"the first":        {portRanges{{80, 90}}, portRanges{{70, 80}}, portRanges{{81, 90}}},
		"the last":         {portRanges{{80, 90}}, portRanges{{90, 95}}, portRanges{{80, 89}}},
		"beside":           {portRanges{{80, 90}}, portRanges{{79, 79}, {91, 91}}, portRanges{{80, 90}}},
		"the highest":      {portRanges{{65530, 65535}}, portRanges{{65535, 65535}}, portRanges{{65530, 65534}}},
		"up to zero":       {portRanges{{0, 5}}, portRanges{{0, 0}}, portRanges{{1, 5}}},
		"overlapping ones": {portRanges{{80, 90}}, portRanges{{85, 95}, {82, 86}}, portRanges{{80, 81}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, firewall.SubtractPorts(tt.ranges, tt.others)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestPortArithmetic compares with sets of ports, one by one.
func TestPortArithmetic(t *testing.T) {
	drawn := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) firewall.PortRange {
		first := rapid.OneOf(rapid.Uint16Range(0, 30), rapid.Uint16Min(65500)).Draw(t, "first")
		return firewall.PortRange{First: first, Last: rapid.Uint16Range(first, max(first, first+9)).Draw(t, "last")}
	}), 0, 6)
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawn.Draw(t, "a"), drawn.Draw(t, "b")
		merged, left := firewall.MergePorts(a), firewall.SubtractPorts(a, b)
		for port := range 1 << 16 {
			p := uint16(port)
			inA, inB := firewall.PortsContain(a, p), firewall.PortsContain(b, p)
			if firewall.PortsContain(merged, p) != inA {
				t.Fatalf("merging changes port %d", p)
			}
			if firewall.PortsContain(left, p) != (inA && !inB) {
				t.Fatalf("port %d: left is %v", p, left)
			}
		}
		for _, ranges := range []portRanges{merged, left} {
			for i := range ranges[min(1, len(ranges)):] {
				if ranges[i+1].First <= ranges[i].Last {
					t.Fatalf("%v is not sorted, or overlaps", ranges)
				}
			}
		}
	})
}

func TestJoinPorts(t *testing.T) {
	if got := firewall.JoinPorts(portRanges{{80, 80}, {8000, 8010}}); got != "80,8000-8010" {
		t.Errorf("got %q", got)
	}
}
