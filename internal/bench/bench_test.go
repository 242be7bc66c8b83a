package main

import (
	"testing"

	"github.com/cfwall/cfwall/ipranges"
)

func TestNetworksAreAsManyAsAskedFor(t *testing.T) {
	for _, r := range rounds {
		l := networks(r.networks)
		if l.Len() != r.networks || len(l.V4()) != r.networks/2 {
			t.Errorf("asked for %d, got %d, of which %d IPv4", r.networks, l.Len(), len(l.V4()))
		}
		if !l.Equal(networks(r.networks)) {
			t.Errorf("%d networks differ from one call to the next", r.networks)
		}
	}
	if n := ipranges.Embedded().List.Len(); n != rounds[0].networks {
		t.Errorf("the published list has %d networks, the smallest size is %d", n, rounds[0].networks)
	}
}

func TestQuartiles(t *testing.T) {
	tests := map[string]struct {
		values         []float64
		q1, median, q3 float64
	}{
		"one":      {[]float64{7}, 7, 7, 7},
		"two":      {[]float64{4, 0}, 1, 2, 3},
		"unsorted": {[]float64{5, 1, 4, 2, 3}, 2, 3, 4},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			q1, median, q3 := quartiles(tt.values)
			if q1 != tt.q1 || median != tt.median || q3 != tt.q3 {
				t.Errorf("got %v, %v, %v; want %v, %v, %v", q1, median, q3, tt.q1, tt.median, tt.q3)
			}
		})
	}
}

func TestAims(t *testing.T) {
	tests := map[string]struct {
		aim  aim
		v    float64
		want string
	}{
		"at the limit":    {atMost(1), 1, "met"},
		"above the limit": {atMost(1), 1.1, "missed"},
		"not below":       {belowOne, 1, "missed"},
		"below":           {belowOne, 0.9, "met"},
		"no aim":          {noAim, 9, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tt.aim.verdict(tt.v); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
