package daemon

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

const (
	escapes  = "a\x1b[2Jb\u009b2J\tc\nd"
	harmless = "a?[2Jb?2J\tc\nd"
)

// A daemon that was broken into answers: nothing of that commands a terminal.
func TestAnswersArePrintable(t *testing.T) {
	p := pathsIn(t.TempDir())
	must(t, os.MkdirAll(p.Runtime, 0o755))
	l, err := net.Listen("unix", p.socket())
	must(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/reload", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, nil, &Refusal{errors.New(escapes), escapes, ExitError})
	})
	mux.HandleFunc("/v1/config", func(w http.ResponseWriter, _ *http.Request) { answer(w, InForce{escapes}, nil) })
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	c, err := Dial(p)
	must(t, err)
	_, err = c.Reload(t.Context(), Order{})
	if r := refusalOf(err); r.Error() != harmless || r.Hint != harmless {
		t.Errorf("error %q, hint %q", r, r.Hint)
	}
	if got, err := c.Config(t.Context()); err != nil || got.Text != harmless {
		t.Errorf("%q, %v", got.Text, err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	long := io.MultiReader(strings.NewReader(`"`), strings.NewReader(strings.Repeat("a", longestReply)), strings.NewReader(`"`))
	var text string
	if err := decode(long, &text); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func TestHolderIsPrintable(t *testing.T) {
	if got := readHolder(strings.NewReader(escapes)); got != harmless {
		t.Errorf("%q", got)
	}
}
