package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/ipranges"
)

// A difference leads from one list to another.
type difference struct {
	Added   ipranges.List `json:"added"`
	Removed ipranges.List `json:"removed"`
}

// differences is what `cfwall ranges diff` tells. Each part is left out where
// there is nothing of the kind.
type differences struct {
	Previous *difference    `json:"previous,omitempty"` // from the previous list to the one in force
	Held     *difference    `json:"held,omitempty"`     // from the one in force to the one that is held
	Pending  *ipranges.List `json:"pending,omitempty"`  // what goes if the next answers lack it too
}

func diffCommand(o *options) *cobra.Command {
	return o.addOutput(&cobra.Command{
		Use:   "diff",
		Short: "Shows what the last change of the list was, and what waits.",
		Long: `Shows what the last change of the list has added and removed, how a list that is
held differs from the one in force, and what is to be removed.`,
		Example: "  sudo cfwall ranges diff     before cfwall ranges accept, or rollback",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			book, err := o.book(cmd)
			if err != nil {
				return err
			}
			return o.show(cmd, differencesIn(book), diffText(book))
		},
	})
}

func differencesIn(b ipranges.Book) (d differences) {
	if b.Previous.List.Len() > 0 {
		d.Previous = between(b.Previous.List, b.Current.List)
	}
	if b.Held != nil {
		d.Held = between(b.Current.List, b.Held.List)
	}
	if b.Pending != nil {
		d.Pending = &b.Pending.Removed
	}
	return d
}

func between(from, to ipranges.List) *difference { return &difference{to.Minus(from), from.Minus(to)} }

func diffText(b ipranges.Book) string {
	var text strings.Builder
	d := differencesIn(b)
	if d.Previous != nil {
		text.WriteString("the list in force, against the previous one:\n" + differenceText(d.Previous.Added, d.Previous.Removed))
	}
	if d.Held != nil {
		fmt.Fprintf(&text, "the list that is held (%s), against the one in force:\n%s", b.Held.Reason, differenceText(d.Held.Added, d.Held.Removed))
	}
	if d.Pending != nil {
		text.WriteString("to be removed, if the next answers lack this too:\n" + differenceText(ipranges.List{}, *d.Pending))
	}
	if text.Len() == 0 {
		return "no difference: there is no previous list, and none is held\n"
	}
	return text.String()
}

func differenceText(added, removed ipranges.List) string {
	return marked("  + ", strings.Fields(added.String())) + marked("  - ", strings.Fields(removed.String()))
}
