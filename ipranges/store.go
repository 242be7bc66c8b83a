package ipranges

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/cfwall/cfwall/internal/durable"
)

// Store keeps a Book in a directory: the list in force in the file `current`,
// the one before it in `previous`, and the rest in `book`. Each begins with a
// line that holds a checksum of what follows. A Store has one user at a time.
type Store struct {
	dir  string
	disk durable.Disk
}

// OpenStore names the directory of a Store. It need not exist.
func OpenStore(dir string) *Store { return &Store{dir: dir, disk: durable.OS{}} }

const (
	currentFile  = "current"
	previousFile = "previous"
	bookFile     = "book"
)

// Problem is something wrong with the Store, said to a human.
type Problem struct {
	Code string `json:"code"` // stable, such as "ranges-damaged"
	Text string `json:"text"`
	Cure string `json:"cure"`
}

// Load returns what is remembered, and never fails: where the current list
// cannot be used the previous one is in force, and where neither can, the
// embedded one. Problems name every file that should have been used and
// cannot be; a directory without any files is new, and no problem.
func (s *Store) Load() (Book, []Problem) {
	var b Book
	current, currentErr := s.loadRecord(currentFile)
	previous, previousErr := s.loadRecord(previousFile)
	bookErr := s.load(bookFile, &b)
	if bookErr != nil {
		b = Book{} // it may be half filled
	}
	b.Current, b.Previous = current, previous
	if currentErr != nil {
		b.Current, b.CheckedAt = previous, time.Time{} // the check was of another list
	}
	if currentErr != nil && previousErr != nil {
		b.Current = Embedded()
	}
	return b, s.problems(b.Current.From, currentErr, previousErr, bookErr)
}

func (s *Store) loadRecord(name string) (Record, error) {
	var r Record
	if err := s.load(name, &r); err != nil {
		return Record{}, err
	}
	if err := r.check(); err != nil {
		return Record{}, err
	}
	return r, nil
}

func (s *Store) load(name string, into any) error {
	content, err := s.disk.Read(filepath.Join(s.dir, name))
	if err != nil {
		return err
	}
	payload, err := unseal(content)
	if err != nil {
		return err
	}
	return json.Unmarshal(payload, into)
}

// problems explains what Load met. A missing `previous` or `book` is normal
// for a young directory; a missing `current` beside one of them is not.
func (s *Store) problems(inForce string, currentErr, previousErr, bookErr error) []Problem {
	var problems []Problem
	missing := func(err error) bool { return errors.Is(err, fs.ErrNotExist) }
	isNew := missing(currentErr) && missing(previousErr) && missing(bookErr)
	if currentErr != nil && !isNew {
		instead := "the previous list is in force"
		if previousErr != nil {
			instead = "the " + inForce + " list is in force"
		}
		problems = append(problems, s.problem(currentFile, currentErr, instead))
	}
	if previousErr != nil && !missing(previousErr) {
		problems = append(problems, s.problem(previousFile, previousErr, "there is no list to roll back to"))
	}
	if bookErr != nil && !missing(bookErr) {
		problems = append(problems, s.problem(bookFile, bookErr, "what was held, pending or due is forgotten"))
	}
	return problems
}

func (s *Store) problem(name string, err error, instead string) Problem {
	path := filepath.Join(s.dir, name)
	p := Problem{
		Code: "ranges-damaged",
		Text: fmt.Sprintf("%s cannot be used (%v); %s", path, err, instead),
		Cure: "the next fetch writes it anew; if this comes back, check the disk",
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Code = "ranges-missing"
		p.Cure = "the next fetch writes it anew; find out who deleted it"
	case errors.Is(err, fs.ErrPermission):
		p.Code = "ranges-unreadable"
		p.Cure = "let the user that runs cfwall read " + path
	case errors.Is(err, durable.ErrNotRegular):
		p.Code = "ranges-not-a-file"
		p.Cure = "remove " + path + ": nothing else belongs there, and it is not written to"
	}
	return p
}

// Save makes a Book durable: when it returns nil, the Book survives a loss of
// power, and at any moment before, each file is the old or the new one, whole.
// The current list is written first, since it matters most. Files that hold
// what they should are left alone, and a previous list is never deleted for
// want of another. Anything but a regular file in the way is an error.
func (s *Store) Save(b Book) error {
	current, previous := b.Current, b.Previous
	b.Current, b.Previous = Record{}, Record{}
	if err := s.save(currentFile, current); err != nil {
		return err
	}
	if previous.List.Len() > 0 {
		if err := s.save(previousFile, previous); err != nil {
			return err
		}
	}
	return s.save(bookFile, b)
}

func (s *Store) save(name string, value any) error {
	payload, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	return durable.Write(s.disk, filepath.Join(s.dir, name), seal(payload))
}

// sealPrefix begins every file; the number is the version of the format.
const sealPrefix = "cfwall ranges 1 sha256 "

// seal puts the checksum line before a payload.
func seal(payload []byte) []byte {
	return fmt.Appendf(nil, "%s%x\n%s\n", sealPrefix, sha256.Sum256(payload), payload)
}

// unseal returns the payload of a file that is bit for bit as it was written.
func unseal(content []byte) ([]byte, error) {
	_, rest, _ := bytes.Cut(content, []byte("\n"))
	payload := bytes.TrimSuffix(rest, []byte("\n"))
	if !bytes.Equal(content, seal(payload)) {
		return nil, errors.New("its checksum does not match")
	}
	return payload, nil
}
