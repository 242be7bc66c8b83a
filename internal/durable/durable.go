// Package durable writes files that are whole after a crash: the old content
// or the new, never a part.
package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Write replaces a file: when it returns nil, the new content survives a loss
// of power, and at any moment before, the file is the old or the new one,
// whole. Anything but a regular file in the way is ErrNotRegular. Nothing is
// written where the file holds the content already.
func Write(d Disk, path string, content []byte) error {
	switch old, err := d.Read(path); {
	case errors.Is(err, ErrNotRegular):
		return fmt.Errorf("writing %s: %w", path, err)
	case err != nil || !bytes.Equal(old, content):
		if err := replace(d, path, content); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	// Also where nothing was written: an earlier Write may have failed here.
	if err := d.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Remove deletes a file: when it returns nil, no loss of power brings it back. It
// may be gone already, by a Remove that failed.
func Remove(d Disk, path string) error {
	err := d.Remove(path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = d.SyncDir(filepath.Dir(path))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", path, err)
	}
	return nil
}

// replace writes a new file beside the old one, makes its content durable, and
// only then gives it the old one's name.
func replace(d Disk, path string, content []byte) error {
	temporary := path + ".new"
	f, err := d.Create(temporary)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.Mkdir(filepath.Dir(path)); err != nil {
			return err
		}
		f, err = d.Create(temporary)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.Rename(temporary, path)
	}
	if err != nil {
		_ = d.Remove(temporary) // it may hold the space that is missing
	}
	return err
}

// Disk is what writing needs of a file system. Tests put one in its place that
// fails, or loses its power, at a chosen call.
type Disk interface {
	// Read returns the content of a regular file, ErrNotRegular for anything
	// else at that path, and an error wrapping fs.ErrNotExist for nothing.
	Read(path string) ([]byte, error)
	// Mkdir makes a directory and those above it, durably.
	Mkdir(dir string) error
	// Create makes a new file, in place of any that is there.
	Create(path string) (File, error)
	// Rename replaces a file by another.
	Rename(from, to string) error
	// Remove deletes a file.
	Remove(path string) error
	// SyncDir makes what was renamed in a directory durable.
	SyncDir(dir string) error
}

// File is the part of *os.File that is written through.
type File interface {
	io.WriteCloser
	Sync() error
}

// maxFile is many times what any file of ours holds, in bytes. Of a larger one as
// much is read, and its checksum does not match.
const maxFile = 4 << 20

// ErrNotRegular says that something else than a regular file is at a path.
var ErrNotRegular = errors.New("it is not a regular file")

// OS is the real one. New files get Mode, whatever the umask is; if it is zero, what
// the umask leaves of 0640.
type OS struct{ Mode os.FileMode }

// Read never follows a symbolic link, and never waits for a named pipe.
func (OS) Read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) { // a symbolic link, a socket
		return nil, ErrNotRegular
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, ErrNotRegular
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// Mkdir implements Disk.
func (d OS) Mkdir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return d.SyncDir(filepath.Dir(dir))
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return d.SyncDir(filepath.Dir(dir))
}

// Create makes a file of its own: what a crash has left at that path goes
// first, and what somebody else puts there meanwhile is an error.
func (d OS) Create(path string) (File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	mode := d.Mode
	if mode == 0 {
		mode = 0o640
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil || d.Mode == 0 {
		return f, err
	}
	if err := f.Chmod(mode); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Rename implements Disk.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements Disk.
func (OS) Remove(path string) error { return os.Remove(path) }

// SyncDir implements Disk.
func (OS) SyncDir(dir string) (err error) {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Sync()
}
