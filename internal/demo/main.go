package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cfwall/cfwall/internal/lab"
)

func main() {
	cfwall := flag.String("cfwall", "bin/cfwall", "the cfwall program to show")
	flag.Parse()
	os.Exit(lab.Run(func() int { return show(*cfwall) }))
}

// show returns the exit code: 1 if anybody gets in who should not, or does not
// get in who should.
func show(cfwall string) int {
	p := &lab.Program{}
	defer p.Close()
	s := newSite(p)
	before := s.ask(func(visitor, service) bool { return true })
	d := s.start(cfwall)
	took := d.awaitProtected()
	after := s.ask(admitted)

	fmt.Printf(`Who reaches this web host: before → after "cfwall run", which needed %v to
be in force and to fetch the list. "in": a whole conversation. "-": no answer at all.

`, took.Round(10*time.Millisecond))
	fmt.Print(table(s.visitors, before, after))
	fmt.Printf("\n$ cfwall status\n%s", d.status())

	d.switchToTunnel()
	tunnel := s.ask(admittedInTunnel)
	fmt.Print("\nThe same host → mode \"tunnel\" and [inbound] policy = \"drop\", SSH open from one network.\n\n")
	fmt.Print(table(s.visitors, after, tunnel))
	fmt.Printf("\n$ cfwall status\n%s", d.status())

	fmt.Printf("\nAnother program tries to open it, and the daemon is killed:\n\n%s", d.meddle())
	left := s.ask(admittedInTunnel)
	fmt.Printf("\nThe rules stay: %s\n", sameAs(tunnel, left))

	wrong := slices.Concat(lab.Unexpected(before), lab.Unexpected(after), lab.Unexpected(tunnel), lab.Unexpected(left))
	for _, r := range wrong {
		if r.Admit {
			fmt.Fprintf(os.Stderr, "error: %v should get in, but: %v\n", r.Probe, r.Err)
		} else {
			fmt.Fprintf(os.Stderr, "error: %v should not get in, but does\n", r.Probe)
		}
	}
	return min(len(wrong), 1)
}
