package resolvers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// Watch tells when what Read returns may have changed, until the context ends
// or the files can no longer be watched; the channel is closed then. Several
// changes may become one word: read again. Nothing is missed by who calls
// Watch before Read.
func Watch(ctx context.Context, root string) (<-chan struct{}, error) {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching the files that name DNS servers: %w", err)
	}
	w := &watcher{Watcher: events, root: root, lost: make(chan struct{}, 1)}
	go w.drain()
	if err := w.look(); err != nil {
		w.end()
		return nil, fmt.Errorf("watching the files that name DNS servers: %w", err)
	}
	changed := make(chan struct{}, 1)
	go func() {
		defer close(changed)
		defer w.end()
		w.watch(ctx, changed)
	}()
	return changed, nil
}

// A watcher watches the directories on the way to the files, links included:
// files are replaced by others, links are turned, and directories below /run
// come while the host starts.
type watcher struct {
	*fsnotify.Watcher
	root  string
	paths map[string]bool // those that decide what Read returns
	dirs  map[string]bool // those that they are in
	err   error           // of the last look
	lost  chan struct{}   // events may have been lost
}

// watch tells of a change only after it has looked again: what changes later
// is an event of its own.
func (w *watcher) watch(ctx context.Context, changed chan<- struct{}) {
	for w.wait(ctx) && w.look() == nil {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// wait returns true when something happened to one of the paths, false when
// the context has ended.
func (w *watcher) wait(ctx context.Context) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.lost:
			return true
		case e := <-w.Events:
			if w.paths[filepath.Clean(e.Name)] { // below "/" it is "//etc"
				return true
			}
		}
	}
}

// look goes the way that Read goes, and watches each directory before a name in
// it is looked up: so a change is either seen now or becomes an event.
func (w *watcher) look() error {
	w.paths, w.dirs, w.err = make(map[string]bool), make(map[string]bool), nil
	_, _ = tree{root: w.root, visit: w.visit}.servers() // an error is for who reads
	for _, dir := range w.WatchList() {
		if !w.dirs[dir] {
			_ = w.Remove(dir) // it may have gone by itself
		}
	}
	return w.err
}

func (w *watcher) visit(path string) {
	dir := filepath.Dir(path)
	w.paths[path], w.dirs[dir] = true, true
	err := w.Add(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return // it went a moment ago: an event of the directory that it was in
	}
	w.err = errors.Join(w.err, err)
}

// drain must go on for as long as fsnotify lives, which sends some errors while
// it holds the lock that its Add and Close wait for. None is worse than a lost
// event: the queue ran over, or a directory was moved and removed at once.
func (w *watcher) drain() {
	defer close(w.lost)
	for range w.Errors {
		select {
		case w.lost <- struct{}{}:
		default:
		}
	}
}

func (w *watcher) end() {
	w.Close()
	for range w.lost { // until drain has ended
	}
}
