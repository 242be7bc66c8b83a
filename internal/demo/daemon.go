package main

import (
	"bytes"
	"os"
	"os/exec"
	"time"
)

// A daemon is cfwall, running on the web host.
type daemon struct {
	*site
	cfwall  string
	started time.Time
	process *exec.Cmd
}

// places are flags that keep cfwall's files in the lab.
var places = []string{"--config", "/run/demo.toml", "--state-dir", "/run/state", "--runtime-dir", "/run/cfwall"}

const logFile = "/run/log"

func (s *site) start(cfwall string) *daemon {
	if err := os.WriteFile("/run/demo.toml", []byte(config), 0o600); err != nil {
		s.t.Fatalf("%v", err)
	}
	d := &daemon{site: s, cfwall: cfwall, started: time.Now()}
	log, err := os.Create(logFile)
	if err != nil {
		s.t.Fatalf("%v", err)
	}
	defer log.Close()
	run := d.command("run")
	run.Stderr = log
	s.web.Start(run)
	d.process = run
	return d
}

func (d *daemon) command(name string) *exec.Cmd {
	cmd := exec.Command(d.cfwall, append([]string{name}, places...)...)
	// Not the caller's environment: SSH_CONNECTION and NOTIFY_SOCKET mean something.
	cmd.Env = []string{"SSL_CERT_FILE=" + d.site.cloudflare.Certificate}
	return cmd
}

// awaitProtected waits until the daemon enforces the policy and has fetched
// the list.
func (d *daemon) awaitProtected() time.Duration {
	const patience = 10 * time.Second
	for {
		check := d.command("status")
		d.web.Start(check)
		err := check.Wait()
		took := time.Since(d.started)
		if err == nil {
			return took
		}
		if took > patience {
			log, _ := os.ReadFile(logFile)
			d.t.Fatalf("after %v the host is not protected\n%s\n%s", patience, d.status(), log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// status is what `cfwall status` prints.
func (d *daemon) status() string {
	out, _ := d.run("status") // its exit code repeats the verdict
	return out
}

func (d *daemon) run(command string) (string, error) {
	var out bytes.Buffer
	cmd := d.command(command)
	cmd.Stdout, cmd.Stderr = &out, &out
	d.web.Start(cmd)
	err := cmd.Wait()
	return out.String(), err
}
