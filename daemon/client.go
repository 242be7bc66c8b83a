package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/procfs"
	"github.com/cfwall/cfwall/ipranges"
	"github.com/cfwall/cfwall/sshd"
)

// ErrNoDaemon says that no daemon answers at the control socket.
var ErrNoDaemon = errors.New("no cfwall daemon runs here")

// clientTimeout is longer than anything that a healthy daemon does: a fetch is
// bounded by 10 s, and so is an exchange with the kernel.
const clientTimeout = 30 * time.Second

// statusPatience is as long as a pass may hold an answer up: whoever looks whether
// all is well hears soon that it is not.
const statusPatience = longestPass

// Client is the Service of the daemon, over its control socket.
type Client struct {
	http  http.Client
	paths Paths
}

// Dial finds the daemon; it fails with ErrNoDaemon where none runs.
func Dial(p Paths) (*Client, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", p.socket())
	}
	c, err := dial(context.Background(), "", "")
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOTDIR):
		return nil, ErrNoDaemon
	case errors.Is(err, os.ErrPermission):
		return nil, refuse(ExitError, "run it with sudo, or as a member of the group cfwall", "asking the daemon: %w", err)
	case err != nil:
		return nil, fmt.Errorf("asking the daemon: %w", err)
	}
	c.Close()
	return &Client{http.Client{Timeout: clientTimeout, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, p}, nil
}

func call[Out any](ctx context.Context, c *Client, name string, in any) (out Out, err error) {
	request, err := json.Marshal(in)
	if err != nil {
		return out, fmt.Errorf("encoding the request: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cfwall/v1/"+name, bytes.NewReader(request))
	if err != nil {
		return out, err
	}
	begun := time.Now()
	response, err := c.http.Do(r)
	if errors.Is(err, context.DeadlineExceeded) {
		return out, refuse(ExitError, "look at its log and restart it: the rules stay in force meanwhile; to open every port: "+breakHanging,
			"%s does not answer within %s", c.daemon(), time.Since(begun).Round(time.Second))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return out, refuse(ExitError, "repeat it in a moment; if it lasts, restart it: the rules stay in force meanwhile; to open every port: "+breakHanging,
			"%s is ending, or too many ask it at once: %w", c.daemon(), err)
	}
	if err != nil {
		return out, fmt.Errorf("asking the daemon: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return out, decode(response.Body, &out)
	}
	var f failure
	if err := decode(response.Body, &f); err != nil {
		return out, refuse(ExitError, "restart the daemon, so that both are of one version", "the daemon does not know %q (%s)", name, response.Status)
	}
	return out, &Refusal{errors.New(f.Error), f.Hint, f.Exit}
}

// longestReply is many times what a daemon says, in bytes.
const longestReply = 64 << 20

// decode takes nothing from the daemon, which may have been broken into, that could
// fill the memory, or command the terminal of root who reads it.
func decode(body io.Reader, into any) error {
	var said any
	d := json.NewDecoder(io.LimitReader(body, longestReply))
	d.UseNumber()
	if err := d.Decode(&said); err != nil {
		return fmt.Errorf("reading the daemon's answer: %w", err)
	}
	b, err := json.Marshal(printable(said))
	if err != nil {
		return fmt.Errorf("reading the daemon's answer: %w", err)
	}
	return json.Unmarshal(b, into)
}

// printable makes the texts in JSON printable.
func printable(v any) any {
	switch v := v.(type) {
	case string:
		return printableText(v)
	case []any:
		for i := range v {
			v[i] = printable(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = printable(v[key])
		}
	}
	return v
}

// printableText replaces what a terminal would not print, but for ends of lines and
// tabs.
func printableText(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		words := strings.Split(line, "\t")
		for j := range words {
			words[j] = procfs.Printable(words[j])
		}
		lines[i] = strings.Join(words, "\t")
	}
	return strings.Join(lines, "\n")
}

// daemon names it, where this user may see who it is.
func (c *Client) daemon() string {
	if holder := Holder(c.paths); holder != "" {
		return "the daemon, " + holder + ","
	}
	return "the daemon"
}

// Status implements Service.
func (c *Client) Status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	return call[Status](ctx, c, "status", nothing{})
}

// Plan implements Service.
func (c *Client) Plan(ctx context.Context, o Order) (PlanReport, error) {
	return call[PlanReport](ctx, c, "plan", o)
}

// Apply implements Service.
func (c *Client) Apply(ctx context.Context, o Order) (Report, error) {
	return call[Report](ctx, c, "apply", o)
}

// Trial implements Service.
func (c *Client) Trial(ctx context.Context) (Trial, error) {
	return call[Trial](ctx, c, "trial", nothing{})
}

// Confirm implements Service.
func (c *Client) Confirm(ctx context.Context, own sshd.Session) (Kept, error) {
	return call[Kept](ctx, c, "confirm", confirmRequest{own})
}

// GoBack implements Service.
func (c *Client) GoBack(ctx context.Context) (Trial, error) {
	return call[Trial](ctx, c, "go-back", nothing{})
}

// Reload asks the daemon to do what SIGHUP does, and waits for the outcome.
func (c *Client) Reload(ctx context.Context, o Order) (Report, error) {
	return call[Report](ctx, c, "reload", o)
}

// Why implements Service.
func (c *Client) Why(ctx context.Context, q Question) (Explanation, error) {
	return call[Explanation](ctx, c, "why", q)
}

// Ranges implements Service.
func (c *Client) Ranges(ctx context.Context) (ipranges.Book, error) {
	return call[ipranges.Book](ctx, c, "ranges", nothing{})
}

// FetchRanges implements Service.
func (c *Client) FetchRanges(ctx context.Context) (ipranges.Outcome, error) {
	return call[ipranges.Outcome](ctx, c, "ranges-fetch", nothing{})
}

// AcceptRanges implements Service.
func (c *Client) AcceptRanges(ctx context.Context) (ipranges.Outcome, error) {
	return call[ipranges.Outcome](ctx, c, "ranges-accept", nothing{})
}

// RollbackRanges implements Service.
func (c *Client) RollbackRanges(ctx context.Context) (ipranges.Outcome, error) {
	return call[ipranges.Outcome](ctx, c, "ranges-rollback", nothing{})
}

// Allowed implements Service.
func (c *Client) Allowed(ctx context.Context) ([]firewall.Temporary, error) {
	return call[[]firewall.Temporary](ctx, c, "allowed", nothing{})
}

// Allow implements Service.
func (c *Client) Allow(ctx context.Context, network netip.Prefix, lasting time.Duration) (firewall.Temporary, error) {
	return call[firewall.Temporary](ctx, c, "allow", allowRequest{network, lasting})
}

// Disallow implements Service.
func (c *Client) Disallow(ctx context.Context, network netip.Prefix) error {
	_, err := call[nothing](ctx, c, "disallow", disallowRequest{network})
	return err
}

// Off implements Service.
func (c *Client) Off(ctx context.Context, lasting time.Duration) (Off, error) {
	return call[Off](ctx, c, "off", offRequest{lasting})
}

// On implements Service.
func (c *Client) On(ctx context.Context) (Report, error) {
	return call[Report](ctx, c, "on", nothing{})
}
