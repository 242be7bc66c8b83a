package systemd

import (
	"io"
	"log/slog"
	"sync"
	"time"
)

// Queue writes a log without its callers ever waiting for who reads it: a pipe
// that nobody empties, or a journal that is stuck. Lines keep their order; those
// that find the queue full are lost, and counted in a line of their own.
type Queue struct {
	lines chan func()

	mu   sync.Mutex
	lost int
	say  *slog.Logger // tells of lost lines; of no queue
}

// queueLines is what a log says in a busy minute, several times over.
const queueLines = 1024

// NewQueue makes a Queue, and the goroutine that writes for it.
func NewQueue() *Queue {
	q := &Queue{lines: make(chan func(), queueLines)}
	go func() {
		for write := range q.lines {
			write()
		}
	}()
	return q
}

// Logger is NewLogger, with this queue before the writing.
func (q *Queue) Logger(w io.Writer, level slog.Leveler) *slog.Logger {
	q.say = NewLogger(w, level)
	return newLogger(w, level, q.put)
}

// Writer is w for whole lines, with this queue before the writing.
func (q *Queue) Writer(w io.Writer) io.Writer { return handing{w, q.put} }

func (q *Queue) put(write func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tellLost()
	if !q.offer(write) {
		q.lost++
	}
}

// tellLost puts what was lost where it would have been. It needs the mutex.
func (q *Queue) tellLost() {
	lost := q.lost
	if lost > 0 && q.offer(func() { LinesLost.Log(q.say, "lines of the log are lost here: nobody read it", "lost", lost) }) {
		q.lost = 0
	}
}

func (q *Queue) offer(write func()) bool {
	select {
	case q.lines <- write:
		return true
	default:
		return false
	}
}

// Flush waits until everything is written, but not for longer than the patience.
func (q *Queue) Flush(patience time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	q.mu.Lock()
	q.tellLost()
	q.mu.Unlock()
	written := make(chan struct{})
	select {
	case q.lines <- func() { close(written) }:
	case <-timer.C:
		return
	}
	select {
	case <-written:
	case <-timer.C:
	}
}
