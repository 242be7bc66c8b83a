package resolvers

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A tree is a file system that begins at root, where links lead too.
type tree struct {
	root string
	// visit, if there is one, is told each path before it is looked up.
	// Nothing that was read changes unless one of these does.
	visit func(path string)
}

// maxSize bounds a file, in bytes.
const maxSize = 64 << 10

func (t tree) read(file string) ([]byte, error) {
	found, err := t.follow(file)
	if err != nil {
		return nil, err
	}
	// Without O_NONBLOCK, opening a pipe waits for somebody to write to it.
	f, err := os.OpenFile(found, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", found)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(text) > maxSize {
		return nil, fmt.Errorf("%s is larger than %d KiB", found, maxSize>>10)
	}
	return text, err
}

// maxNames bounds how many names lead to a file, so that links in a circle end.
// The kernel follows 40 links (path_resolution(7)).
const maxNames = 256

// follow goes to a file name by name, so that every link on the way is seen and
// leads to within the root.
func (t tree) follow(file string) (string, error) {
	at, names := "/", split(file)
	for seen := 0; len(names) > 0; seen++ {
		if seen == maxNames {
			return "", &fs.PathError{Op: "open", Path: filepath.Join(t.root, file), Err: unix.ELOOP}
		}
		entry := path.Join(at, names[0])
		names = names[1:]
		target, err := t.link(entry)
		switch {
		case err != nil:
			return "", err
		case target == "":
			at = entry
		case path.IsAbs(target):
			at = "/"
		}
		names = append(split(target), names...)
	}
	return filepath.Join(t.root, at), nil
}

func split(file string) []string {
	return strings.FieldsFunc(file, func(r rune) bool { return r == '/' })
}

// link returns where an entry leads if it is a link, else "".
func (t tree) link(entry string) (string, error) {
	file := filepath.Join(t.root, entry)
	if t.visit != nil {
		t.visit(file)
	}
	target, err := os.Readlink(file)
	if errors.Is(err, unix.EINVAL) { // readlink(2): it is there and no link
		return "", nil
	}
	return target, err
}
