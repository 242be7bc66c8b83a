package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/ipranges"
	"github.com/cfwall/cfwall/systemd"
)

// disks is how the engine reads and writes files: it waits for each place only
// so long, since a disk that has died, or a network file system without its
// server, may never answer.
type disks struct {
	disk         durable.Disk // of the state directory; tests put others in their place
	textfile     durable.Disk
	readFile     func(path string) ([]byte, error)
	configDisk   *patient
	stateDisk    *patient
	textfileDisk *patient
	noTextfile   error // why the metrics were not written last

	// unwritten are the files of the state directory that do not say what is in
	// force, and why not.
	unwritten map[string]error
	// unread says that the disk did not answer at the start: the state or the
	// config is not known yet.
	unread bool
	// missing says that there is no state directory and none can be made, as while
	// /var is not mounted yet.
	missing bool
}

func newDisks() disks {
	return disks{
		disk:         durable.OS{},
		textfile:     durable.OS{Mode: 0o644},
		readFile:     readConfigText,
		configDisk:   newPatient("the disk", startPatience),
		stateDisk:    newPatient("the disk", startPatience),
		textfileDisk: newPatient("the disk", loopPatience),
		unwritten:    make(map[string]error),
	}
}

// waiting are all who may wait for a disk.
func (e *Engine) waiting() []*patient {
	return append([]*patient{e.configDisk, e.stateDisk, e.textfileDisk}, e.patients...)
}

// hurry ends the patience of the start: from now on the loop must not be held up.
func (e *Engine) hurry() {
	for _, p := range e.waiting() {
		p.patience = p.inLoop
	}
}

// readConfigFile follows links: where the config is, is the administrator's affair.
func (e *Engine) readConfigFile(path string) ([]byte, error) {
	return patiently(e.configDisk, path, func(context.Context) ([]byte, error) { return e.readFile(path) })
}

// longestConfig is more than config.Parse takes, in bytes.
const longestConfig = 2 << 20

// readConfigText reads what may be anything. To open a pipe as os.ReadFile does
// would wait for somebody who writes to it: for ever, once another file stands in
// its place. A device may have no end.
func readConfigText(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(startPatience)) // of a pipe; other files have none
	text, err := io.ReadAll(io.LimitReader(f, longestConfig))
	info, errStat := f.Stat()
	if err == nil && len(text) == 0 && errStat == nil && info.Mode()&os.ModeNamedPipe != 0 {
		err = fmt.Errorf("%s is a pipe, and nobody writes to it", path) // an empty file would be the default policy
	}
	return text, err
}

func (e *Engine) readStateFile(path string) ([]byte, error) {
	return patiently(e.stateDisk, path, func(context.Context) (text []byte, err error) {
		err = e.paths.inState(func() error {
			text, err = e.disk.Read(path)
			return err
		})
		return text, err
	})
}

// bookStore keeps the list; tests put another in its place.
type bookStore interface {
	Load() (ipranges.Book, []ipranges.Problem)
	Save(ipranges.Book) error
}

// remembered is what the state directory holds.
type remembered struct {
	book         ipranges.Book
	bookProblems []ipranges.Problem
	state        state
	stateErr     error
	trial        *trial
}

func (e *Engine) readState() (remembered, error) {
	return patiently(e.stateDisk, e.paths.State, func(context.Context) (r remembered, err error) {
		err = e.paths.inState(func() error {
			r.book, r.bookProblems = e.store.Load()
			r.state, r.stateErr = loadState(e.disk, e.paths, e.clock())
			r.trial = loadTrial(e.disk, e.paths)
			return nil
		})
		return r, err
	})
}

// takeOver puts in force what was read, but for what has been decided since the
// start and could not be written down.
func (e *Engine) takeOver(r remembered) {
	since := func(path string) bool { return e.unwritten[path] != nil }
	if !since(e.paths.ranges()) {
		e.book = r.book
	}
	if since(e.paths.allow()) {
		r.state.allowed = e.state.allowed
	}
	if since(e.paths.off()) {
		r.state.off = e.state.off
	}
	if since(e.paths.forced()) {
		r.state.forced = e.state.forced
	}
	if !since(e.paths.trial()) {
		e.trial = r.trial
	}
	e.state = r.state
}

// keep writes a file of the state directory. Where that fails in time, or at
// all, catchUp writes what is in force then.
func (e *Engine) keep(path string, v any) error {
	return e.write(path, func(d durable.Disk) error { return saveJSON(d, path, v) })
}

func (e *Engine) keepText(path string, text []byte) error {
	return e.write(path, func(d durable.Disk) error { return durable.Write(d, path, text) })
}

func (e *Engine) keepBook() error {
	book := e.book
	return e.write(e.paths.ranges(), func(durable.Disk) error { return e.store.Save(book) })
}

func (e *Engine) write(path string, work func(durable.Disk) error) error {
	_, err := patiently(e.stateDisk, path, func(ctx context.Context) (none struct{}, err error) {
		if err := untrusted(e.paths.State); err != nil {
			return none, err
		}
		if err := e.paths.makeState(); err != nil {
			return none, err
		}
		return none, e.paths.inState(func() error { return work(untilGivenUp{e.disk, ctx}) })
	})
	delete(e.unwritten, path)
	if err != nil {
		e.unwritten[path] = err
		return err
	}
	e.stateProblems = slices.DeleteFunc(e.stateProblems, func(p Problem) bool { // it was about this file alone, which is whole now
		return strings.Contains(p.Text, path) && !strings.Contains(p.Text, "\n")
	})
	return nil
}

// untilGivenUp is a disk for one piece of work: where nobody waits for that any
// more, nothing that it wrote gets its name. So what was refused because the
// disk did not answer is not on the disk once it does.
type untilGivenUp struct {
	durable.Disk
	given context.Context
}

func (d untilGivenUp) Rename(from, to string) error {
	if err := d.given.Err(); err != nil {
		return fmt.Errorf("it comes too late: %w", err)
	}
	return d.Disk.Rename(from, to)
}

// writeTextfile writes the metrics. Their directory may belong to another user.
func (e *Engine) writeTextfile(path, text string) error {
	_, e.noTextfile = patiently(e.textfileDisk, path, func(context.Context) (none struct{}, err error) {
		return none, durable.AsOwner(filepath.Dir(path), func() error { return durable.Write(e.textfile, path, []byte(text)) })
	})
	return e.noTextfile
}

// behind reports whether a disk is awaited, so that the next look comes soon.
func (e *Engine) behind() bool {
	late := func(err error) bool { return isNoAnswer(err) }
	return e.unread || slices.ContainsFunc(slices.Collect(maps.Values(e.unwritten)), late) ||
		slices.ContainsFunc(e.waiting(), func(p *patient) bool { return p.hangs() != nil })
}

// catchUp reads what could not be read at the start, and writes what could not
// be written, where the disk answers again. It reports whether there is another
// config.
func (e *Engine) catchUp() bool {
	if e.configDisk.hangs() != nil || e.stateDisk.hangs() != nil {
		return false
	}
	known := !e.unread && !e.missing
	if e.missing && !e.makeState() {
		return false
	}
	if !known {
		e.unread = false
		e.LoadState()
		e.recallTrial()
		e.LoadConfigOrFallback()
		e.keepCounted()
	}
	for path := range maps.Clone(e.unwritten) {
		e.writeAgain(path)
	}
	return !known
}

// makeState makes the state directory, and reports whether there is one.
func (e *Engine) makeState() bool {
	known := e.missing
	_, err := patiently(e.stateDisk, e.paths.State, func(context.Context) (none struct{}, err error) {
		return none, e.paths.makeState()
	})
	if e.missing = err != nil && !isNoAnswer(err); e.missing {
		e.stateProblems = []Problem{{"state-missing", Degraded, err.Error(),
			"mount what belongs there (it is looked for every minute), or: " + mendState(e.paths.State)}}
	}
	if e.missing && !known {
		systemd.StateFailed.Log(e.log, "there is no state directory", "error", err)
	}
	return !e.missing
}

// keepCounted writes deadlines of another boot down as this one counts them: else
// each start would count them anew by a wall clock that may be wrong, and they
// would never come.
func (e *Engine) keepCounted() {
	if !e.state.counted {
		return
	}
	e.state.counted = false
	e.writeAgain(e.paths.off())
	e.writeAgain(e.paths.allow())
}

// writeAgain writes what is in force now: the work that was given up may have
// left something else. That it fails again is seen in status.
func (e *Engine) writeAgain(path string) {
	switch path {
	case e.paths.allow():
		_ = e.keep(path, e.state.live(e.clock()))
	case e.paths.off():
		_ = e.keep(path, e.state.off)
	case e.paths.forced():
		_ = e.keep(path, e.state.forced)
	case e.paths.trial():
		e.keepTrial()
	case e.paths.ranges():
		_ = e.keepBook()
	case e.paths.lastConfig():
		if e.configText == nil { // else the pass that comes now writes it
			delete(e.unwritten, path)
		}
	}
}

func (e *Engine) diskProblems(now time.Time) []Problem {
	var problems []Problem
	for _, p := range e.waiting() {
		if late := p.hangs(); late != nil {
			cure := lookAtDisk
			if p == e.stateDisk {
				cure += "; meanwhile nothing can be opened"
			}
			problems = append(problems, Problem{"disk-hangs", Degraded,
				fmt.Sprintf("%v, for %s", noAnswer{p.who, late.what}, now.Sub(late.since).Round(time.Second)), cure})
		}
	}
	for _, path := range slices.Sorted(maps.Keys(e.unwritten)) {
		err := e.unwritten[path]
		if e.missing {
			break // which says it all
		}
		p := Problem{"state-unwritable", Degraded, err.Error(), e.diskCure(err) + "; until then a restart begins with what was before"}
		if !isNoAnswer(err) && !slices.Contains(problems, p) { // without the directory, all say the same
			problems = append(problems, p)
		}
	}
	return append(problems, e.textfileProblems()...)
}

func (e *Engine) textfileProblems() []Problem {
	path := e.config.Metrics.Textfile
	if path == "" || e.noTextfile == nil || isNoAnswer(e.noTextfile) {
		return nil
	}
	dir := filepath.Dir(path)
	return []Problem{{"metrics-unwritable", Warning, "the metrics are not written: " + e.noTextfile.Error(),
		"sudo systemctl edit cfwall: add ReadWritePaths=" + dir + " to [Service]; let the user cfwall write to " + dir + "; then: sudo systemctl restart cfwall"}}
}

// stateProblem says that the state is not known.
func (e *Engine) stateProblem(err error) Problem {
	cure := "remove the file named, and restart cfwall; `cfwall allow` entries in it are lost"
	if hint := refusalOf(err).Hint; hint != "" {
		cure = hint
	} else if isNoAnswer(err) {
		cure = lookAtDisk + "; it is read as soon as the disk answers"
	} else if errors.Is(err, fs.ErrPermission) {
		cure = permissionCure(e.paths.State)
	}
	return Problem{"state-unreadable", Degraded, err.Error(), cure}
}

const lookAtDisk = "see what is wrong with the disk: dmesg, mount"

// diskCure says what helps against an error of writing, or of no answer.
func (e *Engine) diskCure(err error) string {
	if hint := refusalOf(err).Hint; hint != "" {
		return hint
	}
	switch {
	case isNoAnswer(err):
		return lookAtDisk
	case errors.Is(err, durable.ErrNotRegular):
		return "remove the file named: nothing else belongs there"
	case errors.Is(err, fs.ErrPermission):
		return permissionCure(e.paths.State)
	}
	return "make the state directory writable"
}
