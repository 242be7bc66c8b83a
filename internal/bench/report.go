package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A sample is a figure of one quantity for each round.
type sample struct {
	values []float64
	unit   string
}

func milliseconds(ds []time.Duration) sample {
	return sample{each(ds, func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }), "ms"}
}

func megabytes(bytes []int64) sample {
	return sample{each(bytes, func(n int64) float64 { return float64(n) / (1 << 20) }), "MB"}
}

func each[In, Out any](all []In, f func(In) Out) []Out {
	out := make([]Out, len(all))
	for i, v := range all {
		out[i] = f(v)
	}
	return out
}

// quartiles returns the values a quarter, half and three quarters up.
func quartiles(values []float64) (q1, median, q3 float64) {
	sorted := slices.Sorted(slices.Values(values))
	at := func(part float64) float64 {
		position := part * float64(len(sorted)-1)
		i := int(position)
		next := min(i+1, len(sorted)-1)
		return sorted[i] + (position-float64(i))*(sorted[next]-sorted[i])
	}
	return at(0.25), at(0.5), at(0.75)
}

// String prints the median: three digits are more than the noise allows.
func (s sample) String() string {
	_, median, _ := quartiles(s.values)
	return number(median) + " " + s.unit
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// An aim is what a median should be.
type aim struct {
	text string
	met  func(float64) bool
}

var (
	noAim    = aim{}
	belowOne = aim{"< 1", func(v float64) bool { return v < 1 }}
)

func atMost(limit float64) aim {
	return aim{"<= " + number(limit), func(v float64) bool { return v <= limit }}
}

// verdict of a figure.
func (a aim) verdict(v float64) string {
	switch {
	case a.met == nil:
		return ""
	case a.met(v):
		return "met"
	default:
		return "missed"
	}
}

const line = "%-37s %9s %9s  %5s  %-10s %-7s  %s\n"

func printHeader() {
	fmt.Println("Medians of rounds in which both take turns; the spread is the middle half of the rounds.")
	fmt.Println()
	fmt.Printf(line, "", "cfwall", "nft -f", "ratio", "spread", "aim", "")
}

// compare prints the ratio of two samples of the same rounds.
func compare(what string, ours, theirs sample, a aim) {
	ratios := make([]float64, len(ours.values))
	for i := range ratios {
		ratios[i] = ours.values[i] / theirs.values[i]
	}
	q1, median, q3 := quartiles(ratios)
	fmt.Printf(line, what, ours, theirs, number(median), number(q1)+"-"+number(q3), a.text, a.verdict(median))
}

// alone prints a sample that has nothing to be compared with.
func alone(what string, ours sample, a aim) {
	q1, median, q3 := quartiles(ours.values)
	fmt.Printf(line, what, ours, "", "", number(q1)+"-"+number(q3), a.text, a.verdict(median))
}

// figure prints a single measurement.
func figure(what string, v float64, unit string, a aim) {
	fmt.Printf(line, what, strings.TrimSpace(number(v)+" "+unit), "", "", "", a.text, a.verdict(v))
}
