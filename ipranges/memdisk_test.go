package ipranges

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"syscall"
	"testing"

	"github.com/cfwall/cfwall/internal/durable"
)

// memDisk is a disk that can fail or lose power at any call, and knows what
// would be left after that. What was written is durable after Sync, what was
// created, renamed or removed is durable after SyncDir; before that it may
// have reached the disk or not.
type memDisk struct {
	now     dir   // as programs see it
	durable dir   // as it is after a loss of power, at least
	undone  []dir // every state since, in order: any of them may be on the disk

	calls  int   // that change something
	failAt int   // this call, counted from 1, fails
	err    error // with this error
	dead   bool  // power is lost: from failAt on, everything fails
}

type dir map[string]*inode

type inode struct {
	written, synced []byte
	failure         error // what reading says
}

func newMemDisk() *memDisk { return &memDisk{now: dir{}, durable: dir{}} }

func (d dir) clone() dir {
	c := dir{}
	maps.Copy(c, d)
	return c
}

var errPower = errors.New("power lost")

// call counts a call and says whether it fails.
func (d *memDisk) call() error {
	d.calls++
	switch {
	case d.failAt == 0 || d.calls < d.failAt || d.calls > d.failAt && !d.dead:
		return nil
	case d.dead:
		return errPower
	}
	return d.err
}

// change does something to the directory that is not durable yet.
func (d *memDisk) change(f func(dir)) error {
	if err := d.call(); err != nil {
		return err
	}
	d.now = d.now.clone()
	f(d.now)
	d.undone = append(d.undone, d.now)
	return nil
}

func (d *memDisk) Read(p string) ([]byte, error) {
	i := d.now[path.Base(p)]
	if i == nil {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(i.written), i.failure
}

func (d *memDisk) Mkdir(string) error { return d.call() }

func (d *memDisk) Create(p string) (durable.File, error) {
	i := &inode{}
	return memFile{d, i}, d.change(func(now dir) { now[path.Base(p)] = i })
}

func (d *memDisk) Rename(from, to string) error {
	return d.change(func(now dir) {
		now[path.Base(to)] = now[path.Base(from)]
		delete(now, path.Base(from))
	})
}

func (d *memDisk) Remove(p string) error {
	return d.change(func(now dir) { delete(now, path.Base(p)) })
}

func (d *memDisk) SyncDir(string) error {
	if err := d.call(); err != nil {
		return err
	}
	d.durable, d.undone = d.now, nil
	return nil
}

type memFile struct {
	d *memDisk
	i *inode
}

// Write fails as a full disk does: after half of it.
func (f memFile) Write(b []byte) (int, error) {
	if err := f.d.call(); err != nil {
		f.i.written = append(f.i.written, b[:len(b)/2]...)
		return len(b) / 2, err
	}
	f.i.written = append(f.i.written, b...)
	return len(b), nil
}

func (f memFile) Sync() error {
	if err := f.d.call(); err != nil {
		return err
	}
	f.i.synced = slices.Clone(f.i.written)
	return nil
}

func (f memFile) Close() error { return f.d.call() }

// afterPowerLoss returns every disk that a loss of power may leave.
func (d *memDisk) afterPowerLoss() []*memDisk {
	var disks []*memDisk
	for _, left := range append([]dir{d.durable}, d.undone...) {
		for _, part := range []float64{0, 0.5, 1} { // of what was not synced
			disk := newMemDisk()
			for name, i := range left {
				content := i.synced
				if !bytes.Equal(i.written, i.synced) {
					content = i.written[:int(part*float64(len(i.written)))]
				}
				disk.now[name] = &inode{written: slices.Clone(content), synced: slices.Clone(content)}
			}
			disk.durable = disk.now
			disks = append(disks, disk)
		}
	}
	return disks
}

func (d *memDisk) store() *Store { return &Store{dir: "/state/ranges", disk: d} }

// put makes a file that has been there for long.
func (d *memDisk) put(name string, content []byte) {
	d.now = d.now.clone()
	d.now[name] = &inode{written: content, synced: content}
	d.durable = d.now
}

// diskErrors are what a disk can say to any call.
var diskErrors = map[string]error{
	"full":      syscall.ENOSPC,
	"quota":     syscall.EDQUOT,
	"read-only": syscall.EROFS,
	"denied":    syscall.EACCES,
	"broken":    syscall.EIO,
}

// The double itself: what was never synced can be lost.
func TestMemDiskLosesWhatWasNotSynced(t *testing.T) {
	d := newMemDisk()
	f, err := d.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("text")); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, left := range d.afterPowerLoss() {
		content, err := left.Read("a")
		seen = append(seen, fmt.Sprintf("%s %v", content, err))
	}
	for _, want := range []string{" file does not exist", " <nil>", "te <nil>", "text <nil>"} {
		if !slices.Contains(seen, want) {
			t.Errorf("no loss of power leaves %q, only %q", want, seen)
		}
	}
}
