package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/cfwall/cfwall/ipranges"
)

const cureOff = `to open the ports to everybody, use "cfwall off"`

// set gives target the value of a key if the file sets it and it is right, and
// reports whether it did.
func set[T any](d *document, v *value, target *T, parse func(value) (T, error)) bool {
	if v == nil {
		return false
	}
	got, err := parse(*v)
	if err != nil {
		d.fail(v.span, err)
		return false
	}
	*target = got
	return true
}

// setAll does the same with an array. It reports whether all of it was right.
func setAll[T any](d *document, v *value, target *[]T, parse func(value) (T, error)) bool {
	if v == nil {
		return false
	}
	if v.kind != unstable.Array {
		d.fail(v.span, problem{v.key + " must be an array", "put it in brackets: [ ]"})
		return false
	}
	var all []T // nil where nothing is in it, as where the file does not set it
	right := true
	for i := range v.items {
		var one T
		right = set(d, &v.items[i], &one, parse) && right
		all = append(all, one)
	}
	if right {
		*target = all
	}
	return right
}

// text makes a reader of values of one that wants text.
func text[T any](parse func(string) (T, error)) func(value) (T, error) {
	return func(v value) (T, error) {
		got, err := parse(v.text)
		if v.kind != unstable.String {
			var none T
			return none, problem{v.key + " takes text", cureText(v, err)}
		}
		return got, err
	}
}

// cureText suggests quotes only where err, about the value as text, is nil.
func cureText(v value, err error) string {
	p, wrong := errors.AsType[problem](err)
	switch {
	case wrong:
		return p.suggestion
	case v.text == "": // an array or a table
		return ""
	}
	return "put it in quotes"
}

func parseBool(v value) (bool, error) {
	if v.kind != unstable.Bool {
		return false, problem{v.key + " is either true or false", "write true or false, without quotes"}
	}
	return v.text == "true", nil
}

// oneOf makes a reader of values that are one of a few words.
func oneOf[T ~string](what string, known ...T) func(string) (T, error) {
	return func(s string) (T, error) {
		if slices.Contains(known, T(s)) {
			return T(s), nil
		}
		var words, quoted []string
		for _, k := range known {
			words, quoted = append(words, string(k)), append(quoted, strconv.Quote(string(k)))
		}
		cure := cmp.Or(meant(closest(s, words)), "write "+alternatives(quoted))
		return "", problem{fmt.Sprintf("unknown %s %q", what, s), cure}
	}
}

// alternatives joins two words or more.
func alternatives(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// parseDrop reads a policy: whether what no entry names is dropped.
func parseDrop(s string) (bool, error) {
	policy, err := oneOf("policy", "accept", "drop")(s)
	return policy == "drop", err
}

func parseSchedule(s string) (ipranges.Schedule, error) {
	schedule, err := ipranges.ParseSchedule(s)
	if err == nil {
		return schedule, nil
	}
	words := []string{"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"}
	cure := cmp.Or(meant(closest(s, words)), `such as "@every 6h" or "17 */4 * * *"`)
	return schedule, problem{err.Error(), cure}
}

func parseURL(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "":
	case u.User != nil:
		return "", problem{fmt.Sprintf("%q names a user: the list is public", s), "leave the user out"}
	case u.Scheme == "https":
		return s, nil
	case u.Scheme == "http":
		return "", problem{fmt.Sprintf("%q: a list that decides who comes in must not travel unprotected", s), write("https" + s[len("http"):])}
	}
	return "", problem{fmt.Sprintf("%q is not an https URL", s), ""}
}

// parseChange reads "20%" as 0.2.
func parseChange(v value) (float64, error) {
	switch v.kind {
	case unstable.String:
		return parsePercentage(v.text)
	case unstable.Integer:
		return 0, problem{v.key + " takes a percentage in quotes", write(v.text + "%")}
	}
	return 0, problem{v.key + " takes a percentage in quotes", `such as "20%"`}
}

func parsePercentage(s string) (float64, error) {
	number, isPercentage := strings.CutSuffix(s, "%")
	percent, err := strconv.ParseFloat(number, 64)
	share := percent / 100
	if !isPercentage || err != nil || !(share > 0 && share <= 1) { // "nan" is neither
		return 0, problem{fmt.Sprintf("%q is not a percentage above 0%% and up to 100%%", s), `such as "20%"`}
	}
	return share, nil
}

// parseListen reads "127.0.0.1:9477"; empty means that nothing listens.
func parseListen(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	host, port, err := net.SplitHostPort(s)
	_, errHost := netip.ParseAddr(host)
	number, errPort := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil, errPort != nil, number == 0:
		return "", problem{fmt.Sprintf("%q is not an address with a port", s), `such as "127.0.0.1:9477" or "[::1]:9477"`}
	case host == "":
		return "", problem{fmt.Sprintf("%q would serve the metrics to every network", s), write("127.0.0.1" + s)}
	case errHost != nil && host != "localhost":
		return "", problem{fmt.Sprintf("%q is not an address", host), fmt.Sprintf("such as %q or %q", "127.0.0.1:"+port, "[::1]:"+port)}
	}
	return s, nil
}

// parseTextfile wants an absolute path; empty means no file.
func parseTextfile(s string) (string, error) {
	switch {
	case s == "":
		return "", nil
	case !path.IsAbs(s):
		return "", problem{fmt.Sprintf("the path %q does not begin with /", s), `such as "/var/lib/prometheus/node-exporter/cfwall.prom"`}
	case strings.HasSuffix(s, "/"), strings.ContainsRune(s, 0):
		return "", problem{fmt.Sprintf("the path %q is not that of a file", s), ""}
	}
	return path.Clean(s), nil
}

func parseLevel(s string) (slog.Level, error) {
	var level slog.Level
	word, err := oneOf("level", "debug", "info", "warn", "error")(s)
	if err != nil {
		return level, err
	}
	return level, level.UnmarshalText([]byte(word))
}

// write is the suggestion to write something else.
func write(s string) string { return "write " + strconv.Quote(s) }
