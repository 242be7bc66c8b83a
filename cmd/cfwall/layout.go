package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/daemon"
	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/systemd"
)

// The prefixes below which systemd looks for units: that of packages, and that
// of what the administrator installs.
const (
	packagePrefix = "/usr"
	localPrefix   = "/usr/local"
)

// Where the files of an installation are, below its prefix.
const (
	programPath = "sbin/cfwall"
	unitPath    = "lib/systemd/system/cfwall.service"
	userPath    = "lib/sysusers.d/cfwall.conf"
	statePath   = "lib/tmpfiles.d/cfwall.conf"
	catalogPath = "lib/systemd/catalog/cfwall.catalog"
	manualPath  = "share/man"
)

// completionPaths are where three shells look for what completes a command.
var completionPaths = map[string]string{
	"bash": "share/bash-completion/completions/cfwall",
	"zsh":  "share/zsh/site-functions/_cfwall",
	"fish": "share/fish/vendor_completions.d/cfwall.fish",
}

// A file is part of an installation.
type file struct {
	path    string // absolute; a root may come before it
	content []byte
	mode    fs.FileMode
	theirs  bool // the administrator's: one that is there is never overwritten
}

// layout lists the files of an installation, in the order in which they are
// written: the unit is the last of what it needs, so that systemd never finds
// one whose program is missing.
func layout(root *cobra.Command, prefix string) ([]file, error) {
	program, err := os.ReadFile("/proc/self/exe") // the file itself, even if another has its name by now
	if err != nil {
		return nil, fmt.Errorf("reading this program: %w", err)
	}
	below := func(path string) string { return filepath.Join(prefix, path) }
	files := []file{
		{path: below(programPath), content: program, mode: 0o755},
		{path: daemon.DefaultPaths.Config, content: []byte(config.Reference), mode: 0o644, theirs: true},
		{path: below(userPath), content: []byte(systemd.SystemUser), mode: 0o644},
		{path: below(statePath), content: []byte(systemd.StateDirectory), mode: 0o644},
		{path: below(unitPath), content: []byte(unitFor(prefix)), mode: 0o644},
		{path: below(catalogPath), content: []byte(systemd.Catalog), mode: 0o644},
	}
	texts, err := documentation(root)
	for _, path := range slices.Sorted(maps.Keys(texts)) {
		files = append(files, file{path: below(path), content: texts[path], mode: 0o644})
	}
	return files, err
}

// unitFor is the unit, with the program below a prefix.
func unitFor(prefix string) string {
	return strings.ReplaceAll(systemd.ServiceUnit, filepath.Join(packagePrefix, programPath), filepath.Join(prefix, programPath))
}

// documentation is what is made from the commands: manual pages, and what
// completes them in three shells.
func documentation(root *cobra.Command) (map[string][]byte, error) {
	texts := make(map[string][]byte)
	pages, err := manuals(root)
	if err != nil {
		return nil, err
	}
	for page, text := range pages {
		texts[filepath.Join(manualPath, page)] = []byte(text)
	}
	for shell, path := range completionPaths {
		var b bytes.Buffer
		if err := writeCompletion(root, &b, shell); err != nil {
			return nil, fmt.Errorf("completion for %s: %w", shell, err)
		}
		texts[path] = b.Bytes()
	}
	return texts, nil
}

// writeFiles writes the files below root; "" is this host's own. Each has its
// old content until the new one is whole, so a program that runs is no obstacle.
func writeFiles(root string, files []file) error {
	defer unix.Umask(unix.Umask(0o022)) // users read manuals and the unit, whatever root keeps to itself
	for _, f := range files {
		path := filepath.Join(root, f.path)
		if _, err := os.Lstat(path); f.theirs && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := durable.Write(forAll{durable.OS{Mode: f.mode}}, path, f.content); err != nil {
			return err
		}
		if err := os.Chmod(path, f.mode); err != nil { // one that was there may have another
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return nil
}

// forAll is the disk, on which new directories can be read by all.
type forAll struct{ durable.OS }

// Mkdir implements durable.Disk.
func (d forAll) Mkdir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return d.SyncDir(filepath.Dir(dir))
}
