package ipranges

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// changes are all the ways in which a Save follows another.
func changes(t *testing.T) map[string]struct{ before, after Book } {
	t.Helper()
	rolledBack, _, err := nextBook(t).Rollback(start)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]struct{ before, after Book }{
		"first save": {Book{Current: Embedded()}, fullBook(t)},
		"new list":   {fullBook(t), nextBook(t)},
		"rollback":   {nextBook(t), rolledBack},
	}
}

func saved(t *testing.T, b Book) *memDisk {
	t.Helper()
	d := newMemDisk()
	if b.Current.From != FromEmbedded {
		save(t, d.store(), b)
	}
	d.calls = 0
	return d
}

// whole checks a Book that was found after a crash: every list is one of the
// old or new ones, whole, without a problem.
func whole(t *testing.T, d *memDisk, before, after Book) Book {
	t.Helper()
	b, problems := d.store().Load()
	for _, p := range problems {
		t.Errorf("problem %+v", p)
	}
	if !cmp.Equal(b.Current, before.Current) && !cmp.Equal(b.Current, after.Current) {
		t.Errorf("in force %+v", b.Current)
	}
	if !cmp.Equal(b.Previous, before.Previous) && !cmp.Equal(b.Previous, after.Previous) {
		t.Errorf("previous %+v", b.Previous)
	}
	if b.NextAt != before.NextAt && b.NextAt != after.NextAt {
		t.Errorf("next %v", b.NextAt)
	}
	return b
}

// Power is lost before any call of a Save, or right after the last: in
// whatever state the disk is then, the lists are whole, and once Save has
// said that it is done, they are the new ones.
func TestPowerLoss(t *testing.T) {
	for name, c := range changes(t) {
		t.Run(name, func(t *testing.T) {
			states := 0
			for at := 1; ; at++ {
				d := saved(t, c.before)
				d.failAt, d.dead = at, true
				err := d.store().Save(c.after)
				for _, left := range d.afterPowerLoss() {
					states++
					b := whole(t, left, c.before, c.after)
					if err == nil && !cmp.Equal(b, c.after) {
						t.Errorf("saved, and lost (-want +got):\n%s", cmp.Diff(c.after, b))
					}
					save(t, left.store(), c.after) // and the next run can save
				}
				if err == nil {
					t.Logf("%d calls, %d states of the disk", at-1, states)
					break
				}
			}
		})
	}
}

// A call fails, in every way a disk can: Save says so, the lists are whole at
// once and after a crash, and the next Save, if it works, is durable.
func TestDiskErrors(t *testing.T) {
	for name, c := range changes(t) {
		for kind, failure := range diskErrors {
			t.Run(name+", "+kind, func(t *testing.T) {
				for at := 1; ; at++ {
					d := saved(t, c.before)
					d.failAt, d.err = at, failure
					err := d.store().Save(c.after)
					if d.calls < at {
						break
					}
					if !errors.Is(err, failure) {
						t.Fatalf("call %d: error %v, want %v", at, err, failure)
					}
					whole(t, d, c.before, c.after)
					for file := range d.now {
						if strings.HasSuffix(file, ".new") {
							t.Errorf("call %d: %s is left behind", at, file)
						}
					}
					for _, left := range d.afterPowerLoss() {
						whole(t, left, c.before, c.after)
					}
					save(t, d.store(), c.after)
					for _, left := range d.afterPowerLoss() {
						if b := load(t, left.store()); !cmp.Equal(b, c.after) {
							t.Errorf("call %d: saved, and lost (-want +got):\n%s", at, cmp.Diff(c.after, b))
						}
					}
				}
			})
		}
	}
}

// On a disk that takes nothing at all, the Book is as it was.
func TestDiskThatNeverWrites(t *testing.T) {
	for name, c := range changes(t) {
		d := saved(t, c.before)
		d.failAt, d.dead = 1, true
		if err := d.store().Save(c.after); err == nil {
			t.Errorf("%s: saved", name)
		}
		if b := load(t, d.store()); !b.Current.List.Equal(c.before.Current.List) {
			t.Errorf("%s: in force %v", name, b.Current)
		}
	}
}
