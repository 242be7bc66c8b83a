package systemd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Unit is a unit file merged with its drop-ins.
type Unit struct {
	// File is the unit file itself, without its drop-ins and where links lead.
	File string
	// Masked is true of a unit that systemd refuses to start.
	Masked bool
	values map[setting][]string
}

type setting struct{ section, key string }

// Values returns what a key is set to, in order: what came before an empty
// assignment is forgotten. Where one value is wanted, the last one counts.
// Values of lists that stand on one line are not split.
func (u Unit) Values(section, key string) []string { return u.values[setting{section, key}] }

// ReadUnit reads a unit of the system's manager, such as "ssh.socket", from
// the files below root; "" is this host's own root. The error is fs.ErrNotExist
// where there is no such unit; where a file cannot be read, the Unit holds what
// the others say. The names of aliases count only if the unit is asked for by one.
func ReadUnit(root, name string) (Unit, error) {
	u := Unit{values: make(map[setting][]string)}
	file, names, err := locate(root, name)
	if err != nil {
		return u, fmt.Errorf("looking for the unit %q: %w", name, err)
	}
	u.File = file
	if u.Masked = masked(root, file); u.Masked {
		return u, nil
	}
	var errs []error
	for _, f := range append([]string{file}, dropIns(root, names)...) {
		if err := u.read(f); err != nil {
			errs = append(errs, fmt.Errorf("reading the unit %q: %w", name, err))
		}
	}
	return u, errors.Join(errs...)
}

// unitDirectories is where systemd looks, what counts most first
// (systemd.unit(5)). Where /usr is not merged, distributions use /lib.
var unitDirectories = []string{
	"/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", "/run/systemd/generator.early",
	"/etc/systemd/system", "/etc/systemd/system.attached", "/run/systemd/system", "/run/systemd/system.attached", "/run/systemd/generator",
	"/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/generator.late",
}

// locate finds the file of a unit, or of its template, and the names whose
// drop-ins count for it: a link to the file of another unit makes an alias.
func locate(root, name string) (file string, names []string, err error) {
	if name == "" || name != filepath.Base(name) {
		return "", nil, fs.ErrInvalid
	}
	for _, n := range []string{name, template(name)} {
		for _, dir := range unitDirectories {
			path := filepath.Join(root, dir, n)
			if _, err := os.Lstat(path); err != nil {
				continue
			}
			file, err := follow(root, path)
			names := relatives(name)
			if target := filepath.Base(file); target != n {
				names = append(names, relatives(target)...)
			}
			return file, names, err
		}
	}
	return "", nil, fs.ErrNotExist
}

// follow returns what a link leads to, within root.
func follow(root, path string) (string, error) {
	const most = 40 // as many as the kernel follows (path_resolution(7))
	for range most {
		target, err := os.Readlink(path)
		switch {
		case err != nil:
			return path, nil // it is no link
		case filepath.IsAbs(target):
			path = filepath.Join(root, target)
		default:
			path = filepath.Join(filepath.Dir(path), target)
		}
	}
	return path, unix.ELOOP
}

// masked reports whether a file says that there shall be no such unit: it is
// empty, or was a link to /dev/null.
func masked(root, file string) bool {
	info, err := os.Stat(file)
	return file == filepath.Join(root, os.DevNull) || err == nil && info.Size() == 0
}

// template is "cloudflared@.service" for "cloudflared@home.service", and the
// name itself for any other unit.
func template(name string) string {
	prefix, instance, ok := strings.Cut(name, "@")
	if !ok {
		return name
	}
	return prefix + "@" + filepath.Ext(instance)
}

// relatives lists the names whose drop-ins count for a unit, its own first:
// those of its template, of each beginning of its name that ends in a dash, and
// of all units of its type.
func relatives(name string) []string {
	kind := filepath.Ext(name)
	all := []string{name, template(name)}
	prefix, _, _ := strings.Cut(strings.TrimSuffix(name, kind), "@")
	for i := strings.LastIndex(prefix, "-"); i > 0; i = strings.LastIndex(prefix[:i], "-") {
		all = append(all, prefix[:i+1]+kind)
	}
	return append(all, strings.TrimPrefix(kind, "."))
}

// dropIns lists the drop-ins for some names in the order of their file names,
// whatever their directories. Of those with one name, only the first counts.
func dropIns(root string, names []string) []string {
	first := make(map[string]string)
	for _, name := range names {
		for _, dir := range unitDirectories {
			dir = filepath.Join(root, dir, name+".d")
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				_, hidden := first[e.Name()]
				if !hidden && e.Name()[0] != '.' && filepath.Ext(e.Name()) == ".conf" {
					first[e.Name()] = filepath.Join(dir, e.Name())
				}
			}
		}
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(first)) {
		all = append(all, first[name])
	}
	return all
}

// read adds the settings in a file to the unit.
func (u Unit) read(path string) error {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() { // a link to /dev/null masks a drop-in
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return u.parse(f)
}

// parse reads the syntax of systemd.syntax(7).
func (u Unit) parse(r io.Reader) error {
	lines, section := newUnitLines(r), ""
	for lines.next() {
		line := strings.TrimSpace(lines.text.String())
		if name, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(name, "]")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		s := setting{section, strings.TrimSpace(key)}
		switch value = strings.TrimSpace(value); {
		case !ok:
		case value == "":
			delete(u.values, s)
		default:
			u.values[s] = append(u.values[s], value)
		}
	}
	return lines.scanner.Err()
}

// unitLines yields lines without comments, continued lines as one.
type unitLines struct {
	scanner *bufio.Scanner
	text    strings.Builder
}

// largestUnit is how much of a file is read: no unit needs as much.
const largestUnit = 1 << 20

func newUnitLines(r io.Reader) *unitLines {
	s := bufio.NewScanner(io.LimitReader(r, largestUnit))
	s.Buffer(nil, largestUnit+1)
	return &unitLines{scanner: s}
}

// next reports whether there is one more line. A comment may stand between the
// parts of a continued line and does not end it.
func (l *unitLines) next() bool {
	l.text.Reset()
	for l.scanner.Scan() {
		part := strings.TrimLeft(l.scanner.Text(), " \t")
		if strings.HasPrefix(part, "#") || strings.HasPrefix(part, ";") {
			continue
		}
		if !continues(part) {
			l.text.WriteString(part)
			return true
		}
		l.text.WriteString(strings.TrimSuffix(part, `\`) + " ")
	}
	return l.text.Len() > 0
}

// continues reports whether a line ends in a backslash that is not escaped by another.
func continues(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}
