package systemd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

func TestQueueKeepsTheOrder(t *testing.T) {
	var buffer bytes.Buffer
	q := NewQueue()
	log := q.Logger(&buffer, slog.LevelInfo).With("a", 1)
	var want strings.Builder
	for i := range 500 {
		log.Info("line", "i", i)
		fmt.Fprintf(&want, "level=INFO msg=line a=1 i=%d\n", i)
	}
	q.Flush(time.Minute)
	if got := buffer.String(); got != want.String() {
		t.Errorf("got\n%s", got)
	}
}

// A pipe that nobody reads holds up nobody who logs, and what is lost is counted
// where it was lost.
func TestQueueToAPipeThatNobodyReads(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	q := NewQueue()
	log := q.Logger(w, slog.LevelInfo)
	const lines = 10000 // a pipe holds about 2,000 of them, and the queue 1,024
	for i := range lines {
		log.Info("line", "i", i, "text", strings.Repeat("x", 20))
	}
	q.Flush(10 * time.Millisecond) // gives up
	var read bytes.Buffer
	var wait sync.WaitGroup
	wait.Go(func() { _, _ = io.Copy(&read, r) })
	q.Flush(time.Minute)
	log.Info("last")
	q.Flush(time.Minute)
	w.Close()
	wait.Wait()
	all := strings.Split(strings.TrimSuffix(read.String(), "\n"), "\n")
	lost, last := 0, -1
	for _, line := range all {
		var i, n int
		switch {
		case strings.Contains(line, "lost="):
			if _, err := fmt.Sscanf(line[strings.Index(line, "lost="):], "lost=%d", &n); err != nil {
				t.Error(err)
			}
			lost += n
		case strings.Contains(line, "i="):
			if _, err := fmt.Sscanf(line, "level=INFO msg=line i=%d", &i); err != nil || i <= last {
				t.Errorf("%q after %d (%v)", line, last, err)
			}
			last = i
		}
	}
	if written := strings.Count(read.String(), "msg=line i="); lost == 0 || written+lost != lines {
		t.Errorf("%d written and %d lost of %d", written, lost, lines)
	}
	if all[len(all)-1] != "level=INFO msg=last" {
		t.Errorf("the last line is %q", all[len(all)-1])
	}
}

// A journal that is stuck, too.
func TestQueueToAJournalThatIsStuck(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	q := NewQueue()
	send := func(message string, _ journal.Priority, _ map[string]string) error {
		return errors.Join(unix.Send(pair[0], []byte(message), 0)) // waits for its reader
	}
	log := slog.New(journalHandler{level: slog.LevelInfo, send: send, fallback: io.Discard, hand: q.put})
	q.say = slog.New(slog.DiscardHandler)
	for range 5000 {
		log.Info("line")
	}
	if err := unix.Shutdown(pair[1], unix.SHUT_RDWR); err != nil { // or its writer would wait beyond the test
		t.Fatal(err)
	}
}
