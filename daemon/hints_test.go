package daemon

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// What systemd is told is no better than the verdict of status, and the log does
// not repeat it because it is a day older.
func TestLineIsNoBetterThanStatus(t *testing.T) {
	e, _, _ := newTestEngine(t)
	e.LoadState()
	e.LoadConfigOrFallback()
	d := &Daemon{engine: e}
	_, line, news := d.line()
	if !strings.HasPrefix(line, "protected, but the list is the one built into cfwall") {
		t.Errorf("the built-in list: %q", line)
	}
	e.book.Current.FetchedAt = e.book.Current.FetchedAt.Add(-24 * time.Hour)
	if _, later, same := d.line(); later == line || same != news {
		t.Errorf("a day later: %q, and news %q, %q", later, news, same)
	}
	e.unwritten[e.paths.off()] = fs.ErrPermission
	if _, line, other := d.line(); !strings.HasPrefix(line, "protected, but "+fs.ErrPermission.Error()) || other == news {
		t.Errorf("the state cannot be written: %q", line)
	}
}

// A directory that is gone is one problem, however many files it lacks.
func TestStateIsUnwritableOnce(t *testing.T) {
	e, _, _ := newTestEngine(t)
	for _, path := range []string{e.paths.off(), e.paths.allow(), e.paths.trial()} {
		e.unwritten[path] = refuse(ExitError, mendState(e.paths.State), "making the state directory: %w", fs.ErrPermission)
	}
	problems := e.diskProblems(time.Now())
	if len(problems) != 1 || !strings.HasPrefix(problems[0].Cure, mendState(e.paths.State)) {
		t.Errorf("%+v", problems)
	}
}

// What is gone cannot be mended.
func TestCureOfAConfigThatIsGone(t *testing.T) {
	e, _, _ := newTestEngine(t)
	must(t, os.MkdirAll(e.paths.State, 0o755), os.WriteFile(e.paths.lastConfig(), []byte("[web]\ntcp = [8443]\n"), 0o600))
	e.LoadState()
	e.LoadConfigOrFallback()
	i := slices.IndexFunc(e.configProblems, func(p Problem) bool { return p.Code == "config-refused" })
	if i < 0 || !strings.HasPrefix(e.configProblems[i].Cure, "put it back") {
		t.Errorf("%+v", e.configProblems)
	}
}

// Who cannot write down that the ports are open is told how to open them all the same.
func TestOffWithoutDiskNamesAWayOut(t *testing.T) {
	e, _, _ := newTestEngine(t)
	must(t, os.WriteFile(e.paths.State, nil, 0o600))
	_, err := e.Off(t.Context(), 0)
	if hint := refusalOf(err).Hint; !strings.HasSuffix(hint, breakGlass) {
		t.Errorf("%v, hint %q", err, hint)
	}
}

// A daemon that does not work is named, with what opens the ports in spite of it.
func TestDaemonThatHangsUpIsNamed(t *testing.T) {
	dir := t.TempDir()
	p := Paths{Runtime: dir, State: dir}
	release, err := p.acquire("run")
	must(t, err)
	defer release()
	l, err := net.Listen("unix", p.socket())
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	client, err := Dial(p)
	must(t, err)
	_, err = client.Status(t.Context())
	refused, ok := errors.AsType[*Refusal](err)
	if !ok || !strings.Contains(err.Error(), "cfwall run (pid ") || !strings.HasSuffix(refused.Hint, breakHanging) {
		t.Errorf("%v", err)
	}
}
