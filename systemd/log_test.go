package systemd

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTextLogger(t *testing.T) {
	var buffer bytes.Buffer
	l := NewLogger(&buffer, slog.LevelInfo)
	l.Debug("hidden")
	l.Warn("fetch failed", "class", "timeout", slog.Group("next", "at", "12:00"))
	want := `level=WARN msg="fetch failed" class=timeout next.at=12:00` + "\n"
	if got := buffer.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTextLoggerTime(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	NewLogger(file, slog.LevelInfo).Info("ready")
	NewLogger(w, slog.LevelInfo).Info("ready")
	w.Close()

	inFile, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^time=\S+ level=INFO msg=ready\n$`).Match(inFile) {
		t.Errorf("the file has %q", inFile)
	}
	inPipe, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if string(inPipe) != "level=INFO msg=ready\n" {
		t.Errorf("the pipe has %q", inPipe)
	}
}

func TestTextLoggerTimeOnTerminal(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if !needsTime(terminal) {
		t.Error("lines on a terminal have no time")
	}
}

func TestLoggerWithoutJournal(t *testing.T) {
	for _, stream := range []string{"", "1:1", "nonsense"} {
		t.Setenv("JOURNAL_STREAM", stream)
		if h, isText := NewLogger(os.Stderr, slog.LevelInfo).Handler().(*slog.TextHandler); !isText {
			t.Errorf("JOURNAL_STREAM=%q: the handler is %T", stream, h)
		}
	}
}

// TestLoggerWithJournal runs the test program a second time, in a mount
// namespace in which it can be journald too.
func TestLoggerWithJournal(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), journaldVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(lines)
	want := []string{"CFWALL_CLASS=timeout", "CFWALL_EVENT=fetch-failed", "MESSAGE=fetch failed class=timeout", "MESSAGE_ID=67ef93896c2c430ca275509a9cde3cd0", "PRIORITY=5"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("journald got (-want +got):\n%s", diff)
	}
}

// journaldVariable makes this program the second one of TestLoggerWithJournal.
const journaldVariable = "CFWALL_TEST_JOURNALD"

func TestMain(m *testing.M) {
	if os.Getenv(journaldVariable) == "" {
		os.Exit(m.Run())
	}
	if err := beJournald(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// beJournald logs to the journal, and prints what the journal was sent.
func beJournald() error {
	const dir = "/run/systemd/journal"
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	journal, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/socket", Net: "unixgram"})
	if err != nil {
		return err
	}
	if err := connectStderr(); err != nil {
		return err
	}
	FetchFailed.Log(NewLogger(os.Stderr, slog.LevelInfo), "fetch failed", "class", "timeout")
	if err := journal.SetReadDeadline(time.Now().Add(time.Minute)); err != nil { // or nobody would end this process
		return err
	}
	buffer := make([]byte, 4096)
	n, err := journal.Read(buffer)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(buffer[:n])
	return err
}

// connectStderr does what systemd does for StandardError=journal.
func connectStderr() error {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := syscall.Dup3(pair[0], syscall.Stderr, 0); err != nil {
		return err
	}
	var stat syscall.Stat_t
	if err := syscall.Fstat(syscall.Stderr, &stat); err != nil {
		return err
	}
	return os.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", stat.Dev, stat.Ino))
}
