package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/internal/durable"
)

// A Difference is what a config file has other than the config in force.
type Difference struct {
	Added   int      `json:"added"` // lines
	Removed int      `json:"removed"`
	Meaning bool     `json:"meaning"` // false: it means the same, in other words or with other comments
	Lines   []string `json:"lines"`   // a unified diff, for people
}

// String counts the lines.
func (d Difference) String() string {
	noun := "lines"
	if d.Added == 1 {
		noun = "line"
	}
	return fmt.Sprintf("%d %s added, %d removed", d.Added, noun, d.Removed)
}

// longestDiff bounds how many lines of a diff are shown.
const longestDiff = 200

// differenceFrom compares the text of a file with that of the config in force;
// nil means that there is no difference.
func differenceFrom(inForce, file []byte, name string) *Difference {
	lines := strings.Split(string(bytes.TrimSuffix(diff.Diff("in force", inForce, name, file), []byte("\n"))), "\n")
	if len(lines) == 1 {
		return nil
	}
	d := Difference{Meaning: !meanTheSame(inForce, file), Lines: lines[1:]} // the first repeats the names
	for i, l := range d.Lines {
		d.Lines[i] = config.Printable(l)
		switch {
		case i < 2: // "--- in force" and "+++ FILE"
		case strings.HasPrefix(l, "+"):
			d.Added++
		case strings.HasPrefix(l, "-"):
			d.Removed++
		}
	}
	if more := len(d.Lines) - longestDiff; more > 0 {
		d.Lines = append(slices.Clip(d.Lines[:longestDiff]), fmt.Sprintf("... and %d more lines", more))
	}
	return &d
}

func meanTheSame(a, b []byte) bool {
	first, errFirst := config.Parse(bytes.NewReader(a), "")
	second, errSecond := config.Parse(bytes.NewReader(b), "")
	return errFirst == nil && errSecond == nil && first.Equal(second)
}

// addDifference says where the config file is not what is in force: it was
// refused, or nobody has loaded it. Other comments alone are not worth a word.
func (e *Engine) addDifference(s *Status) {
	_, file, err := e.readConfig()
	if file != nil {
		s.Difference = differenceFrom(e.inForce, file, e.paths.Config)
	}
	reverted := e.trial != nil && !e.trial.Reverted.IsZero() && string(file) == e.trial.Text // to load it is no cure
	refused := slices.ContainsFunc(e.configProblems, func(p Problem) bool { return p.Code == "config-refused" })
	switch {
	case refused:
	case err != nil:
		s.Problems = append(s.Problems, Problem{"config-not-loaded", Warning,
			"the config file is not the one in force, and a reload would refuse it: " + firstLine(err), "cfwall check says more; then: cfwall reload"})
	case s.Difference == nil || !s.Difference.Meaning:
		s.Difference = nil
	case !reverted:
		s.Problems = append(s.Problems, Problem{"config-not-loaded", Warning,
			fmt.Sprintf("the config file is not the one in force, it was not loaded since it changed (%s)", s.Difference), "cfwall plan, then: cfwall reload"})
	}
}

// InForce is the text of the config that the daemon works by.
type InForce struct {
	Text string `json:"text"`
}

// Config asks for the text of the config that the daemon works by.
func (c *Client) Config(ctx context.Context) (InForce, error) {
	return call[InForce](ctx, c, "config", nothing{})
}

// askInForce bounds the wait for a daemon that does not answer: to check a file
// does not depend on it.
const askInForce = 5 * time.Second

// textInForce asks the daemon for the text of the config in force; where none
// runs that is the last one that worked. It may not be known.
func (p Paths) textInForce(ctx context.Context) (text []byte, known bool) {
	ctx, cancel := context.WithTimeout(ctx, askInForce)
	defer cancel()
	client, err := Dial(p)
	if errors.Is(err, ErrNoDaemon) {
		err = durable.AsOwner(p.State, func() error {
			text, err = durable.OS{}.Read(p.lastConfig())
			return err
		})
		return text, err == nil
	}
	if err != nil {
		return nil, false
	}
	inForce, err := client.Config(ctx)
	return []byte(inForce.Text), err == nil
}

// difference compares the config file, if it could be read, with what is in force.
func (e *Engine) difference(ctx context.Context, file []byte) *Difference {
	text, known := e.paths.textInForce(ctx)
	if !known || file == nil {
		return nil
	}
	return differenceFrom(text, file, e.paths.Config)
}
