package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/ipranges"
)

func rangesCommand(o *options) *cobra.Command {
	cmd := o.addOutput(&cobra.Command{
		Use:   "ranges",
		Short: "Shows the list of Cloudflare's networks that is in force.",
		Long: `Shows the list of Cloudflare's networks that is in force, where it comes from
and how fresh it is.`,
		Example: "  sudo cfwall ranges           which networks, and how fresh?\n  sudo cfwall ranges fetch     is there a newer list?",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			book, err := o.book(cmd)
			if err != nil {
				return err
			}
			return o.show(cmd, book, bookText(book, time.Now()))
		},
	})
	cmd.AddCommand(fetchCommand(o), acceptCommand(o), rollbackCommand(o), diffCommand(o))
	return cmd
}

func (o *options) book(cmd *cobra.Command) (ipranges.Book, error) {
	service, err := o.reader(allWarnings(cmd))
	if err != nil {
		return ipranges.Book{}, err
	}
	return service.Ranges(cmd.Context())
}

func bookText(b ipranges.Book, now time.Time) string {
	var f fields
	fmt.Fprintf(&f.b, "%d IPv4 and %d IPv6 networks are in force\n", len(b.Current.List.V4()), len(b.Current.List.V6()))
	f.add("source", "%s", sourceLine(b.Current.From, b.Agreement))
	if b.Current.ETag != "" {
		f.add("etag", "%s", b.Current.ETag)
	}
	if b.Current.From == ipranges.FromEmbedded {
		f.add("recorded", "%s", moment(b.Current.FetchedAt, now))
	} else {
		f.add("fetched", "%s", moment(b.Current.FetchedAt, now))
	}
	f.add("checked", "%s", moment(b.CheckedAt, now))
	if !b.NextAt.IsZero() {
		f.add("next", "%s (%s)", clock(b.NextAt, now), in(b.NextAt, now))
	}
	if b.LastOutcome.Class != "" {
		f.add("latest", "%s", outcomeText(b.LastOutcome))
	}
	if b.Held != nil {
		f.add("held", "%s, since %s: %s; see cfwall ranges diff", plural(b.Held.List.Len(), "network"), moment(b.Held.Since, now), b.Held.Reason)
	}
	if b.Pending != nil {
		f.add("pending", "removal, if the next answers lack this too: %s",
			strings.Join(strings.Fields(b.Pending.Removed.String()), ", "))
	}
	f.b.WriteString("\n" + b.Current.List.String())
	return f.b.String()
}

// outcomeText begins with the class, which never changes its name.
func outcomeText(o ipranges.Outcome) string {
	class := string(o.Class) + ": "
	return class + strings.TrimPrefix(o.Text, class)
}

// moment prints a time and how long ago that was.
func moment(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return fmt.Sprintf("%s (%s)", clock(t, now), ago(t, now))
}
