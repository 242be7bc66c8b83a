package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// isTerminal reports whether people look at what is written to a stream, or
// type what is read from it.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// The colours of a verdict (ECMA-48, SGR).
const (
	red    = 31
	green  = 32
	yellow = 33
)

// coloured paints text, on a terminal whose user has not asked for none
// (https://no-color.org).
func coloured(w io.Writer, colour int, text string) string {
	if !isTerminal(w) || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	return fmt.Sprintf("\x1b[1;%dm%s\x1b[0m", colour, text)
}

// warnings is the log of a command that works without a daemon: what went
// wrong, but did not end the command, is a warning to its user.
type warnings struct {
	w     io.Writer
	least slog.Level
}

// allWarnings is for commands that say only what they were asked.
func allWarnings(cmd *cobra.Command) slog.Handler {
	return warnings{cmd.ErrOrStderr(), slog.LevelWarn}
}

// graveWarnings is for commands that tell what they have done themselves.
func graveWarnings(cmd *cobra.Command) slog.Handler {
	return warnings{cmd.ErrOrStderr(), slog.LevelError}
}

func (h warnings) Enabled(_ context.Context, l slog.Level) bool { return l >= h.least }

func (h warnings) Handle(_ context.Context, r slog.Record) error {
	line := "warning: " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			line += ": " + a.Value.String()
		}
		return true
	})
	_, err := fmt.Fprintln(h.w, line)
	return err
}

func (h warnings) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h warnings) WithGroup(string) slog.Handler { return h }
