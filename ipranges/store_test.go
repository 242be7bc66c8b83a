package ipranges

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cfwall/cfwall/internal/durable"
)

// fullBook has something in every field.
func fullBook(t testing.TB) Book {
	t.Helper()
	full := published(t)
	return Book{
		Current:   Record{List: full, From: FromAPI, ETag: "38f79d05", FetchedAt: start},
		Previous:  Record{List: before2021(t), From: FromText, FetchedAt: start.AddDate(0, -1, 0)},
		Held:      &Held{Record: Record{List: full.Union(networks("8.0.0.0/11")), From: FromAPI, FetchedAt: start}, Class: ClassHeld, Reason: "much", Since: start},
		Pending:   &Pending{Removed: networks("131.0.72.0/22"), Since: start},
		CheckedAt: start, NextAt: start.Add(6 * time.Hour), Failures: 2, Agreement: Agree,
		LastOutcome: Outcome{Class: ClassHTML, Text: "a page", At: start},
	}
}

// nextBook is fullBook after an addition.
func nextBook(t testing.TB) Book {
	t.Helper()
	b := fullBook(t)
	a := api(b.Current.List.Union(networks("1.1.1.0/24")))
	a.At = start.Add(6 * time.Hour)
	b, _ = b.Offer(a, maxChange, a.At)
	return b
}

func save(t testing.TB, s *Store, b Book) {
	t.Helper()
	if err := s.Save(b); err != nil {
		t.Fatal(err)
	}
}

// load expects a Book without problems.
func load(t testing.TB, s *Store) Book {
	t.Helper()
	b, problems := s.Load()
	if len(problems) > 0 {
		t.Fatalf("problems: %+v", problems)
	}
	return b
}

func TestStoreKeepsTheBook(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "ranges")
	s := OpenStore(dir)
	if diff := cmp.Diff(Book{Current: Embedded()}, load(t, s)); diff != "" {
		t.Errorf("a new store (-want +got):\n%s", diff)
	}
	first := Book{Current: Embedded(), NextAt: start, Failures: 1}
	save(t, s, first)
	if diff := cmp.Diff(first, load(t, s)); diff != "" {
		t.Errorf("without a previous list (-want +got):\n%s", diff)
	}
	for _, want := range []Book{fullBook(t), nextBook(t)} {
		save(t, s, want)
		if diff := cmp.Diff(want, load(t, OpenStore(dir))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		if info, err := e.Info(); err != nil || info.Mode().Perm()&0o027 != 0 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
	if want := []string{"book", "current", "previous"}; !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
}

func TestStoreWritesOnlyChanges(t *testing.T) {
	s := OpenStore(t.TempDir())
	b := fullBook(t)
	save(t, s, b)
	before := fileIDs(t, s.dir)
	save(t, s, b)
	if after := fileIDs(t, s.dir); !cmp.Equal(before, after) {
		t.Errorf("files were written: %v, %v", before, after)
	}
	b.CheckedAt = start.Add(time.Hour)
	save(t, s, b)
	after := fileIDs(t, s.dir)
	if after["current"] != before["current"] || after["previous"] != before["previous"] || after["book"] == before["book"] {
		t.Errorf("from %v to %v", before, after)
	}
	b.Previous = Record{}
	save(t, s, b)
	if after := fileIDs(t, s.dir); after["previous"] != before["previous"] {
		t.Error("the previous list is gone")
	}
}

// fileIDs tells a file from one that replaced it.
func fileIDs(t *testing.T, dir string) map[string]uint64 {
	t.Helper()
	ids := map[string]uint64{}
	for _, name := range []string{"current", "previous", "book"} {
		var stat syscall.Stat_t
		if err := syscall.Stat(filepath.Join(dir, name), &stat); err != nil {
			t.Fatal(err)
		}
		ids[name] = stat.Ino
	}
	return ids
}

// fullStore is a store on a disk, and what was saved in it.
type fullStore struct {
	book  Book
	files map[string][]byte
}

func newFullStore(t testing.TB) fullStore {
	t.Helper()
	d := newMemDisk()
	full := fullStore{fullBook(t), map[string][]byte{}}
	save(t, d.store(), full.book)
	for name, i := range d.now {
		full.files[name] = i.synced
	}
	if len(full.files) != 3 {
		t.Fatalf("%d files", len(full.files))
	}
	return full
}

// damaged replaces one file, and checks what Load makes of it.
func (full fullStore) damaged(t *testing.T, name string, content []byte) {
	t.Helper()
	d := newMemDisk()
	for n, c := range full.files {
		d.put(n, c)
	}
	d.put(name, content)
	b, problems := d.store().Load()
	want := full.book
	switch name {
	case "current":
		want.Current, want.CheckedAt = want.Previous, time.Time{}
	case "previous":
		want.Previous = Record{}
	case "book":
		want = Book{Current: want.Current, Previous: want.Previous}
	}
	if !cmp.Equal(want, b) {
		t.Fatalf("%s %q: (-want +got):\n%s", name, content, cmp.Diff(want, b))
	}
	if len(problems) != 1 || problems[0].Code != "ranges-damaged" || !strings.Contains(problems[0].Text, "/state/ranges/"+name) || problems[0].Cure == "" {
		t.Fatalf("%s %q: problems %+v", name, content, problems)
	}
}

// Any file cut anywhere, or longer, or with any one bit flipped, is not used.
func TestStoreDamage(t *testing.T) {
	full := newFullStore(t)
	for name, content := range full.files {
		t.Run(name, func(t *testing.T) {
			for n := range content {
				full.damaged(t, name, content[:n])
			}
			for _, more := range []string{"\n", " ", "\x00", "{}"} {
				full.damaged(t, name, append(slices.Clone(content), more...))
			}
			for bit := range 8 * len(content) {
				flipped := slices.Clone(content)
				flipped[bit/8] ^= 1 << (bit % 8)
				full.damaged(t, name, flipped)
			}
			t.Logf("%d cuts, %d flipped bits", len(content), 8*len(content))
		})
	}
}

// A correct checksum does not make a list believable.
func TestStoreRefusesImplausibleFiles(t *testing.T) {
	full := newFullStore(t)
	current := string(full.files["current"])
	for _, payload := range []string{
		``, `null`, `{}`, `[]`, `{"list":[]}`, `{"list":[],"from":"api"}`,
		`{"list":["104.16.0.0/13"],"from":"api"}`,
		`{"list":["0.0.0.0/0","::/0"],"from":"api"}`,
		`{"list":["10.0.0.0/8","2606:4700::/32"],"from":"api"}`,
		`{"list":["104.16.0.1/13","2606:4700::/32"],"from":"api"}`,
		`{"list":["104.16.0.0/13","2606:4700::/32"],"from":"a friend"}`,
		`{"list":["104.16.0.0/13","2606:4700::/32"],"from":"api","fetched_at":"yesterday"}`,
	} {
		full.damaged(t, "current", seal([]byte(payload)))
		full.damaged(t, "previous", seal([]byte(payload)))
	}
	full.damaged(t, "book", seal([]byte(`{"failures":"many"}`)))
	full.damaged(t, "book", seal([]byte(`{"failures":7,"held":{"list":["10.0.0.1/8"]}}`)))
	full.damaged(t, "current", []byte(current[strings.Index(current, "\n")+1:]))
	full.damaged(t, "current", []byte(strings.Replace(current, "ranges 1", "ranges 2", 1)))
}

func TestStoreProblems(t *testing.T) {
	full := newFullStore(t)
	tests := []struct {
		name    string
		failure map[string]error // fs.ErrNotExist removes the file
		from    string
		codes   []string
	}{
		{"all is well", nil, FromAPI, nil},
		{"new", map[string]error{"current": fs.ErrNotExist, "previous": fs.ErrNotExist, "book": fs.ErrNotExist}, FromEmbedded, nil},
		{"young", map[string]error{"previous": fs.ErrNotExist, "book": fs.ErrNotExist}, FromAPI, nil},
		{"current is gone", map[string]error{"current": fs.ErrNotExist}, FromText, []string{"ranges-missing"}},
		{"both are gone", map[string]error{"current": fs.ErrNotExist, "previous": fs.ErrNotExist}, FromEmbedded, []string{"ranges-missing"}},
		{"current is denied", map[string]error{"current": syscall.EACCES}, FromText, []string{"ranges-unreadable"}},
		{"everything is denied", map[string]error{"current": syscall.EACCES, "previous": syscall.EACCES, "book": syscall.EACCES}, FromEmbedded,
			[]string{"ranges-unreadable", "ranges-unreadable", "ranges-unreadable"}},
		{"the disk is broken", map[string]error{"current": syscall.EIO, "previous": syscall.EIO, "book": syscall.EIO}, FromEmbedded,
			[]string{"ranges-damaged", "ranges-damaged", "ranges-damaged"}},
		{"a link", map[string]error{"current": durable.ErrNotRegular}, FromText, []string{"ranges-not-a-file"}},
		{"previous is gone", map[string]error{"previous": fs.ErrNotExist}, FromAPI, nil},
		{"previous is broken", map[string]error{"previous": syscall.EIO}, FromAPI, []string{"ranges-damaged"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newMemDisk()
			for name, content := range full.files {
				if err := tt.failure[name]; !errors.Is(err, fs.ErrNotExist) {
					d.now[name] = &inode{written: content, failure: err}
				}
			}
			b, problems := d.store().Load()
			var codes []string
			for _, p := range problems {
				codes = append(codes, p.Code)
			}
			if b.Current.From != tt.from || !slices.Equal(codes, tt.codes) {
				t.Errorf("from %s, problems %+v", b.Current.From, problems)
			}
			if age, _ := b.Freshness(start.Add(time.Hour)); b.Current.From == FromEmbedded && age < 31*24*time.Hour {
				t.Errorf("the embedded list is said to be %v old", age)
			}
		})
	}
}

// On the real disk: nothing but a regular file is read or written.
func TestStoreNeedsRegularFiles(t *testing.T) {
	place := map[string]func(path, victim string) error{
		"link":          func(path, victim string) error { return os.Symlink(victim, path) },
		"dangling link": func(path, victim string) error { return os.Symlink(victim+".absent", path) },
		"directory":     func(path, _ string) error { return os.Mkdir(path, 0o700) },
		"named pipe":    func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
		"socket": func(path, _ string) error {
			fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			return errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Close(fd))
		},
	}
	for kind, make := range place {
		for _, name := range []string{"current", "previous", "book"} {
			t.Run(kind+" as "+name, func(t *testing.T) {
				s := OpenStore(t.TempDir())
				save(t, s, fullBook(t))
				path := filepath.Join(s.dir, name)
				victim := filepath.Join(t.TempDir(), "victim")
				good, err := os.ReadFile(path)
				if err = errors.Join(err, os.WriteFile(victim, good, 0o600), os.Remove(path), make(path, victim)); err != nil {
					t.Fatal(err)
				}
				b, problems := s.Load()
				if len(problems) != 1 || problems[0].Code != "ranges-not-a-file" || !strings.Contains(problems[0].Text, path) {
					t.Errorf("problems %+v", problems)
				}
				if err := Plausible(b.Current.List); err != nil {
					t.Error(err)
				}
				if err := s.Save(nextBook(t)); !errors.Is(err, durable.ErrNotRegular) || !strings.Contains(err.Error(), path) {
					t.Errorf("saved with error %v", err)
				}
				if now, err := os.ReadFile(victim); err != nil || string(now) != string(good) {
					t.Errorf("the victim was written: %v", err)
				}
				if _, err := os.Lstat(victim + ".absent"); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the target was made: %v", err)
				}
			})
		}
	}
}

func TestStoreOnARealDisk(t *testing.T) {
	t.Run("the parent is a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s := OpenStore(filepath.Join(file, "ranges"))
		if b, problems := s.Load(); b.Current.From != FromEmbedded || len(problems) == 0 {
			t.Errorf("book %+v, problems %+v", b, problems)
		}
		if err := s.Save(fullBook(t)); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("saved with error %v", err)
		}
	})
	t.Run("a huge file", func(t *testing.T) {
		s := OpenStore(t.TempDir())
		save(t, s, fullBook(t))
		if err := os.Truncate(filepath.Join(s.dir, "current"), 1<<40); err != nil {
			t.Fatal(err)
		}
		if b, problems := s.Load(); b.Current.From != FromText || len(problems) != 1 {
			t.Errorf("book %+v, problems %+v", b, problems)
		}
	})
	t.Run("what a crash has left goes", func(t *testing.T) {
		s := OpenStore(t.TempDir())
		left := filepath.Join(s.dir, "current.new")
		victim := filepath.Join(s.dir, "victim")
		if err := errors.Join(os.WriteFile(victim, []byte("keep"), 0o600), os.Symlink(victim, left)); err != nil {
			t.Fatal(err)
		}
		save(t, s, fullBook(t))
		load(t, s)
		if text, err := os.ReadFile(victim); err != nil || string(text) != "keep" {
			t.Errorf("the victim holds %q, %v", text, err)
		}
		if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is still there: %v", err)
		}
	})
}
