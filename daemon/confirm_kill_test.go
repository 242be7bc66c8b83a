package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
)

// This program also plays `cfwall apply --confirm` with the files in a directory,
// and a boot of its own: a file that takes the place of the kernel's boot_id.
const (
	tryStandIn  = "CFWALL_TEST_TRY"
	bootStandIn = "CFWALL_TEST_BOOT"
)

// lasting is how long the trials are that are played.
const lasting = 2 * time.Second

func playTry(dir string) {
	client, err := Dial(pathsIn(dir))
	if err == nil {
		_, err = client.Apply(context.Background(), Order{Confirm: lasting})
	}
	fmt.Println("in force", err)
	time.Sleep(2 * lasting) // it waits for the outcome
	os.Exit(0)
}

// playBoot becomes this program again, after the boot that a file names.
func playBoot(file string) {
	runtime.LockOSThread() // mounts are the thread's, and of what it becomes
	err := unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil {
		err = unix.Mount(file, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, "")
	}
	if err == nil {
		_ = os.Unsetenv(bootStandIn)
		err = unix.Exec("/proc/self/exe", os.Args, os.Environ())
	}
	fmt.Println("playing another boot:", err)
	os.Exit(1)
}

// A stage is a host on which one trial after the other is played, while what is
// part of it is killed. Its config file is one that was not confirmed.
type stage struct {
	*lab.Host
	dir      string
	boots    int
	daemon   *exec.Cmd
	old, new firewall.Ruleset
}

// start starts this program in the host, in its present boot.
func (s *stage) start(variable string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), variable, bootStandIn+"="+filepath.Join(s.dir, "boot"))
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
	}
	s.Start(cmd)
	return cmd
}

func (s *stage) startDaemon() { s.daemon = s.start(daemonStandIn + "=" + s.dir) }

func (s *stage) boot() error {
	s.boots++
	return os.WriteFile(filepath.Join(s.dir, "boot"), fmt.Appendf(nil, "boot %d of %s\n", s.boots, s.Host), 0o600)
}

// killAll is a crash of several at one time.
func killAll(commands ...*exec.Cmd) {
	for _, c := range commands {
		_ = c.Process.Kill()
	}
	for _, c := range commands {
		_ = c.Wait()
	}
}

func upNow() time.Duration {
	var up unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)
	return time.Duration(up.Nano())
}

// inForce compares the kernel's table with the two.
func (s *stage) inForce() (what string, err error) {
	var have firewall.State
	s.Do(func() { have, err = kernel.New().Read(context.Background(), firewall.FamilyINET) })
	switch {
	case err != nil:
		return "", err
	case have.Table == nil:
		return isOpen, nil
	case firewall.MakePlan(have, s.old).Empty():
		return isOld, nil
	case firewall.MakePlan(have, s.new).Empty():
		return isNew, nil
	}
	return "something between", nil
}

// until waits for what is to be in force, and says when it was. What is never to
// be in force must not be before.
func (s *stage) until(want, never string, patience time.Duration) (up time.Duration, err error) {
	var is string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if is, err = s.inForce(); err != nil {
			return 0, err
		}
		switch is {
		case want:
			return upNow(), nil
		case never:
			return 0, fmt.Errorf("%s is in force, want %s", is, want)
		}
	}
	return 0, fmt.Errorf("%s is in force after %v, want %s", is, patience, want)
}

// record reads what is on disk of a trial; it may be written just now.
func (s *stage) record() (t trial, err error) {
	b, err := os.ReadFile(pathsIn(s.dir).trial())
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	return t, err
}

// begun waits for the record of another trial.
func (s *stage) begun(was trial, patience time.Duration) (now trial, err error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if now, err = s.record(); err != nil {
			return now, err
		}
		if !now.Since.Equal(was.Since) {
			return now, nil
		}
	}
	return now, fmt.Errorf("no trial has begun within %v", patience)
}

// prepare brings a host to where its config file is one that was not confirmed:
// only a trial can put that in force then.
func (s *stage) prepare() error {
	s.startDaemon()
	if _, err := s.until(isOld, "", restartPatience); err != nil {
		return err
	}
	if err := os.WriteFile(pathsIn(s.dir).Config, []byte(newText), 0o600); err != nil {
		return err
	}
	client, err := s.client()
	if err == nil {
		_, err = client.Apply(context.Background(), Order{Confirm: time.Second})
	}
	if err == nil {
		_, err = s.until(isOld, "", restartPatience)
	}
	return err
}

// client waits for a daemon that is starting.
func (s *stage) client() (client *Client, err error) {
	for deadline := time.Now().Add(restartPatience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if client, err = Dial(pathsIn(s.dir)); err == nil {
			return client, nil
		}
	}
	return nil, err
}

const (
	restartPatience = 30 * time.Second
	// lateness is what a busy machine may add to the second in which a trial is to
	// be gone back from.
	lateness = 4 * time.Second
)

// A played trial is one with what became of it.
type played struct {
	victims string        // who was killed: "command", "daemon", "both", "power"
	at      time.Duration // of the trial
	late    time.Duration // how long after the deadline, or after a daemon was there again, it was over
	begun   bool
}

// play begins a trial, kills somebody, and waits for the old table.
func (s *stage) play(victims string) (p played, err error) {
	if _, err := s.client(); err != nil {
		return p, err
	}
	p = played{victims: victims, at: rand.N(lasting)}
	was, err := s.record()
	if err != nil {
		return p, err
	}
	try := s.start(tryStandIn + "=" + s.dir)
	defer killAll(try)
	if rand.N(4) == 0 {
		p.at /= 10 // while it begins, or before
	} else if _, err := s.begun(was, restartPatience); err != nil {
		return p, err
	}
	time.Sleep(p.at)
	switch victims {
	case "command":
		killAll(try)
	case "daemon":
		killAll(s.daemon)
	case "both":
		killAll(try, s.daemon)
	case "power":
		killAll(try, s.daemon)
		err = errors.Join(s.removeTable(), s.boot())
	}
	from := upNow()
	if victims != "command" {
		s.startDaemon()
	}
	if err != nil {
		return p, err
	}
	return s.measure(p, was, from)
}

// measure waits for the end of a trial. Before its deadline it must not be over,
// but by the loss of power.
func (s *stage) measure(p played, was trial, from time.Duration) (played, error) {
	if p.victims == "power" {
		now, _ := s.record()
		p.begun = !now.Since.Equal(was.Since)
		up, err := s.until(isOld, isNew, restartPatience)
		p.late = up - from
		return p, err
	}
	now, err := s.begun(was, 400*time.Millisecond) // the command may only have started
	if p.begun = err == nil; !p.begun {
		_, err := s.until(isOld, isOpen, restartPatience)
		return p, err
	}
	if left := now.Deadline.Up - upNow(); now.pending() && left > 200*time.Millisecond {
		if _, err := s.until(isNew, isOpen, left); err != nil {
			return p, fmt.Errorf("on trial: %w", err)
		}
	}
	up, err := s.until(isOld, isOpen, restartPatience)
	if p.late = up - now.Deadline.Up; p.late < 0 {
		return p, fmt.Errorf("it is over %v too early", -p.late)
	}
	p.late = min(p.late, up-from)
	return p, err
}

func (s *stage) removeTable() (err error) {
	s.Do(func() {
		var have firewall.State
		k := kernel.New()
		if have, err = k.Read(context.Background(), firewall.FamilyINET); err == nil {
			err = k.Apply(context.Background(), firewall.RemovePlan(have, firewall.FamilyINET))
		}
	})
	return err
}

// Whoever is killed, and whenever: a trial that nobody confirms is over at its
// deadline, by the time since boot, and the table is the old one. After another
// boot it is over at once.
func TestTrialsSurviveKills(t *testing.T) {
	lab.Kernel(t)
	const stages, trials = 8, 104
	rounds := trials / stages
	if os.Getenv("CFWALL_SOAK") != "" {
		rounds *= 10
	}
	net := lab.New(t)
	var all []played
	var mu sync.Mutex
	var playing sync.WaitGroup
	for i := range stages {
		s := newStage(t, net.Host("stage"+strconv.Itoa(i)))
		playing.Go(func() {
			if err := s.prepare(); err != nil {
				log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
				t.Errorf("%s: %v\n%s", s, err, log)
				return
			}
			for round := range rounds {
				victims := []string{"command", "daemon", "both", "power"}[(i+round)%4]
				p, err := s.play(victims)
				if err != nil {
					log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
					t.Errorf("%s, round %d, %s killed after %v: %v\n%s", s, round, victims, p.at, err, log[max(0, len(log)-6000):])
					return
				}
				mu.Lock()
				all = append(all, p)
				mu.Unlock()
			}
			killAll(s.daemon)
		})
	}
	playing.Wait()
	report(t, all, rounds*stages)
}

func newStage(t *testing.T, h *lab.Host) *stage {
	t.Helper()
	s := &stage{Host: h, dir: t.TempDir()}
	if err := s.boot(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, pathsIn(s.dir).Config, newText)
	s.new = s.wanted(t)
	writeFile(t, pathsIn(s.dir).Config, oldText)
	s.old = s.wanted(t)
	return s
}

// wanted is the ruleset that the config file means in the host.
func (s *stage) wanted(t *testing.T) (want firewall.Ruleset) {
	t.Helper()
	var err error
	s.Do(func() {
		e := newLabEngine(t, wish{})
		e.paths.Config = pathsIn(s.dir).Config
		e.LoadConfigOrFallback()
		want, _, err = e.Want(time.Now())
	})
	if err != nil {
		t.Fatal(err)
	}
	return want
}

func report(t *testing.T, all []played, want int) {
	t.Helper()
	if len(all) < want {
		t.Errorf("%d trials were played, want %d", len(all), want)
	}
	for _, victims := range []string{"command", "daemon", "both", "power"} {
		var late []time.Duration
		begun := 0
		for _, p := range all {
			if p.victims == victims {
				late = append(late, p.late)
			}
			if p.victims == victims && p.begun {
				begun++
			}
		}
		if len(late) == 0 {
			continue
		}
		slices.Sort(late)
		worst := late[len(late)-1]
		t.Logf("%s killed: %d trials, %d had begun; over after the deadline by %v in the middle, %v at most", victims, len(late), begun, late[len(late)/2], worst)
		if worst > time.Second+lateness {
			t.Errorf("%s killed: a trial was over %v late, limit %v", victims, worst, time.Second+lateness)
		}
	}
}
