package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
	"github.com/cfwall/cfwall/ipranges"
)

func fetchCommand(o *options) *cobra.Command {
	return o.addOutput(&cobra.Command{
		Use:   "fetch",
		Short: "Fetches the list now, and says what came of it.",
		Long: `Fetches the list now. What is new comes into force at once; what is missing goes
after a second answer, an hour later or more; a change that is too large to be
believed is held until somebody accepts it.`,
		Example: "  sudo cfwall ranges fetch     now, and not when it is due",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.change(cmd, graveWarnings(cmd), func(s daemon.Service) error {
				outcome, err := s.FetchRanges(cmd.Context())
				if err != nil {
					return err
				}
				book, err := s.Ranges(cmd.Context())
				if err != nil {
					return err
				}
				return o.showFetch(cmd, outcome, book)
			})
		},
	})
}

func (o *options) showFetch(cmd *cobra.Command, outcome ipranges.Outcome, book ipranges.Book) error {
	if book.Failures > 0 {
		if o.output == jsonOutput {
			if err := o.show(cmd, outcome, ""); err != nil {
				return err
			}
		}
		return &daemon.Refusal{
			Err:  errors.New(outcomeText(outcome)),
			Hint: fetchCure(outcome.Class) + "; the list in force stays",
			Exit: daemon.ExitError,
		}
	}
	if err := o.showOutcome(cmd, outcome); err != nil {
		return err
	}
	if book.Held != nil {
		say(cmd, "hint: look at what is held (cfwall ranges diff), then: cfwall ranges accept")
	}
	return nil
}

// fetchCure says what to do about a fetch that failed.
func fetchCure(c ipranges.Class) string {
	switch c {
	case ipranges.ClassDNS:
		return "see that this host can resolve names (/etc/resolv.conf)"
	case ipranges.ClassNetwork, ipranges.ClassTimeout, ipranges.ClassTruncated:
		return "see that this host can reach the addresses in [ranges] at port 443"
	case ipranges.ClassTLS:
		return "see that the clock is right and the CA certificates are installed"
	case ipranges.ClassBadSource:
		return "mend [ranges] in the configuration"
	case ipranges.ClassChinaMissing:
		return "set china_network = false unless your zones use it"
	}
	return "something else answers for Cloudflare, or its service fails: look with curl -i URL"
}
