package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

// Subcommands that bench starts itself with, inside the lab.
const (
	applyCommand  = "apply"  // FILE
	verifyCommand = "verify" // FILE
	noopCommand   = "noop"
)

func main() {
	cfwall := flag.String("cfwall", "bin/cfwall", "the cfwall program to measure")
	flag.Parse()
	if flag.NArg() == 0 {
		os.Exit(lab.Run(func() int { return run(*cfwall) }))
	}
	if err := part(flag.Arg(0), flag.Arg(1)); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
}

func part(command, file string) error {
	if err := inLab(); err != nil {
		return err
	}
	switch command {
	case applyCommand, verifyCommand:
		return applyFile(file, command == verifyCommand)
	case noopCommand:
		return repeatNoop()
	default:
		return fmt.Errorf("bench has no subcommand %q", command)
	}
}

// inLab refuses to touch the machine's own tables.
func inLab() error {
	outside := os.Getenv("CFWALL_LAB")
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil || outside == "" || outside == here {
		return errors.New("this is a part of bench, not to be started by hand")
	}
	return nil
}

func run(cfwall string) int {
	p := &lab.Program{}
	defer p.Close()
	for _, program := range []string{cfwall, "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			p.Fatalf("%v", err)
		}
	}
	describeMachine()
	printHeader()
	b := &bench{t: p, net: lab.New(p), cfwall: cfwall}
	b.apply()
	b.noop()
	b.start()
	b.idle()
	return 0
}

// bench measures on hosts of its own, one for each question.
type bench struct {
	t      *lab.Program
	net    *lab.Net
	cfwall string
}

func describeMachine() {
	var name unix.Utsname
	_ = unix.Uname(&name) // its only error is a bad pointer
	nft, _ := exec.Command("nft", "--version").Output()
	load, _ := os.ReadFile("/proc/loadavg")
	minute, _, _ := strings.Cut(string(load), " ")
	fmt.Printf("Linux %s, %d CPUs with a load of %s, %s, %s\n", unix.ByteSliceToString(name.Release[:]),
		runtime.NumCPU(), minute, runtime.Version(), strings.TrimSpace(string(nft)))
}
