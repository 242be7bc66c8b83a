package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/cfwall/cfwall/daemon"
)

// In the journal the reason why the daemon ends is an error, with what to do.
func TestReportToALog(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, nil))
	err := &daemon.Refusal{Err: errors.New("the disk is gone"), Hint: "look for it", Exit: daemon.ExitDegraded}
	if exit := reportTo(log, err); exit != daemon.ExitDegraded {
		t.Errorf("exit code %d", exit)
	}
	if want := `level=ERROR msg="cannot work here: the disk is gone" event=start-failed hint="look for it"` + "\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("got %s", b.String())
	}
}
