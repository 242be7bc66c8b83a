package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/ipranges"
	"github.com/cfwall/cfwall/sshd"
)

// A verb is one request of the control socket, POST /v1/NAME. It is a reading or
// a writing: there is no third kind, so none is without a permission.
type verb interface {
	admits(uid int) bool
	serve(ctx context.Context, d *Daemon, request []byte) (any, error)
}

type (
	serveFunc = func(ctx context.Context, d *Daemon, request []byte) (any, error)
	reading   serveFunc
	writing   serveFunc
)

// Whoever can connect may read: the socket's mode admits root, the daemon's user
// and the group cfwall.
func (reading) admits(uid int) bool { return uid != unknown }

// Root and the daemon's user may write.
func (writing) admits(uid int) bool { return uid == 0 || uid == os.Geteuid() }

func (r reading) serve(ctx context.Context, d *Daemon, request []byte) (any, error) {
	return r(ctx, d, request)
}

func (w writing) serve(ctx context.Context, d *Daemon, request []byte) (any, error) {
	return w(ctx, d, request)
}

// Requests of verbs that take arguments.
type (
	allowRequest struct {
		Network netip.Prefix  `json:"network"`
		Lasting time.Duration `json:"lasting"`
	}
	disallowRequest struct {
		Network netip.Prefix `json:"network"`
	}
	offRequest struct {
		Lasting time.Duration `json:"lasting"`
	}
	confirmRequest struct {
		Session sshd.Session `json:"session"`
	}
	nothing struct{}
)

// verbs is the whole protocol.
var verbs = map[string]verb{
	"status": reading(statusVerb),
	"config": ask(func(_ context.Context, d *Daemon, _ nothing) (InForce, error) {
		return InForce{string(d.engine.inForce)}, nil
	}),
	"plan": ask(func(ctx context.Context, d *Daemon, o Order) (PlanReport, error) { return d.engine.Plan(ctx, o) }),
	"why":  ask(func(ctx context.Context, d *Daemon, q Question) (Explanation, error) { return d.engine.Why(ctx, q) }),
	"ranges": ask(func(ctx context.Context, d *Daemon, _ nothing) (ipranges.Book, error) {
		return d.engine.Ranges(ctx)
	}),
	"allowed": ask(func(ctx context.Context, d *Daemon, _ nothing) ([]firewall.Temporary, error) {
		return d.engine.Allowed(ctx)
	}),
	"trial": ask(func(ctx context.Context, d *Daemon, _ nothing) (Trial, error) { return d.engine.Trial(ctx) }),
	"confirm": change(func(ctx context.Context, d *Daemon, r confirmRequest) (Kept, error) {
		return d.engine.Confirm(ctx, r.Session)
	}),
	"go-back": change(func(ctx context.Context, d *Daemon, _ nothing) (Trial, error) {
		return d.goBack(ctx)
	}),
	"apply":        change(func(ctx context.Context, d *Daemon, o Order) (Report, error) { return d.apply(ctx, o) }),
	"reload":       change(func(ctx context.Context, d *Daemon, o Order) (Report, error) { return d.reload(ctx, o) }),
	"ranges-fetch": writing(fetchVerb),
	"ranges-accept": change(func(ctx context.Context, d *Daemon, _ nothing) (ipranges.Outcome, error) {
		return d.engine.AcceptRanges(ctx)
	}),
	"ranges-rollback": change(func(ctx context.Context, d *Daemon, _ nothing) (ipranges.Outcome, error) {
		return d.engine.RollbackRanges(ctx)
	}),
	"allow": change(func(ctx context.Context, d *Daemon, r allowRequest) (firewall.Temporary, error) {
		return d.engine.Allow(ctx, r.Network, r.Lasting)
	}),
	"disallow": change(func(ctx context.Context, d *Daemon, r disallowRequest) (nothing, error) {
		return nothing{}, d.engine.Disallow(ctx, r.Network)
	}),
	"off": change(func(ctx context.Context, d *Daemon, r offRequest) (Off, error) {
		return d.engine.Off(ctx, r.Lasting)
	}),
	"on": change(func(ctx context.Context, d *Daemon, _ nothing) (Report, error) { return d.engine.On(ctx) }),
}

// ask makes a verb of a question that the loop answers.
func ask[In, Out any](f func(context.Context, *Daemon, In) (Out, error)) reading {
	return inLoop(f)
}

// change makes a verb of a change that the loop carries out. It learns when the
// next pass is due, and mends what went wrong.
func change[In, Out any](f func(context.Context, *Daemon, In) (Out, error)) writing {
	return inLoop(func(ctx context.Context, d *Daemon, in In) (Out, error) {
		out, err := f(ctx, d, in)
		d.passAt = time.Now()
		return out, err
	})
}

func inLoop[In, Out any](f func(context.Context, *Daemon, In) (Out, error)) serveFunc {
	return func(ctx context.Context, d *Daemon, request []byte) (any, error) {
		var in In
		if err := json.Unmarshal(request, &in); err != nil {
			return nil, refuse(ExitUsage, "use the cfwall of the daemon's version", "reading the request: %w", err)
		}
		var out Out
		var err error
		if errLoop := d.do(ctx, func(ctx context.Context) { out, err = f(ctx, d, in) }); errLoop != nil {
			return nil, errLoop
		}
		return out, err
	}
}

// statusVerb looks at the tunnel outside of the loop, which other programs must
// not hold up.
func statusVerb(ctx context.Context, d *Daemon, _ []byte) (any, error) {
	return d.status(ctx)
}

func (d *Daemon) status(ctx context.Context) (Status, error) {
	var s Status
	var err error
	var c config.Config
	if errLoop := d.do(ctx, func(ctx context.Context) {
		s, err = d.engine.tableStatus(ctx)
		c = d.engine.config
	}); errLoop != nil {
		return Status{}, errLoop // s is the loop's: it may be at work on it
	}
	if err == nil {
		s.lookAround(ctx, d.engine.surroundings, c)
	}
	return s, err
}

var errStopping = errors.New("the daemon is stopping")

// fetchVerb fetches outside of the loop, as the schedule does.
func fetchVerb(ctx context.Context, d *Daemon, _ []byte) (any, error) {
	var source ipranges.Source
	if err := d.do(ctx, func(context.Context) { source = d.engine.config.Ranges.Source }); err != nil {
		return nil, err
	}
	type result struct {
		outcome ipranges.Outcome
		err     error
	}
	results := make(chan result, 1)
	d.fetch(ctx, source, func(o ipranges.Outcome, err error) { results <- result{o, err} })
	select {
	case r := <-results:
		return r.outcome, r.err
	default:
		return ipranges.Outcome{}, errStopping
	}
}

// serve listens on the control socket.
func (d *Daemon) serve(ctx context.Context) (*http.Server, error) {
	var l *net.UnixListener
	err := durable.AsOwner(d.opts.Paths.Runtime, func() (err error) {
		l, err = openSocket(d.opts.Paths.socket())
		return err
	})
	if err != nil {
		return nil, err
	}
	server := &http.Server{
		Handler:           d.handler(),
		ConnContext:       withPeer,
		ReadHeaderTimeout: longestRequest,
		ReadTimeout:       longestRequest,
		WriteTimeout:      longestAnswer,
		IdleTimeout:       10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	go func() { _ = server.Serve(limit(l, controlLimit)) }() // ends with Close
	return server, nil
}

func openSocket(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, &Refusal{fmt.Errorf("removing the old control socket: %w", err), "remove it: sudo rm -r " + path, ExitError}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("opening the control socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // by the time that it closes there may be another in its place
	if err := restrict(path); err != nil {
		l.Close()
		return nil, fmt.Errorf("restricting the control socket: %w", err)
	}
	return l, nil
}

// listen serves the control socket until the daemon ends.
func (d *Daemon) listen(ctx context.Context) (err error) {
	d.control, err = d.serve(ctx)
	return err
}

// listenAgain makes the control socket anew where somebody has removed it: without
// one the daemon could be asked nothing, and no other could be started.
func (d *Daemon) listenAgain(ctx context.Context) {
	if _, err := os.Lstat(d.opts.Paths.socket()); d.control == nil || !errors.Is(err, os.ErrNotExist) {
		return
	}
	before := d.control
	err := os.MkdirAll(d.opts.Paths.Runtime, 0o755)
	if err == nil {
		err = d.listen(ctx)
	}
	if err != nil {
		d.control = before
		d.opts.Log.Error("the control socket was removed and could not be made again", "error", err)
		return
	}
	d.opts.Log.Warn("the control socket was removed; it is there again")
	go func() { _ = shutDown(before) }() // who is connected still gets an answer
}

func (d *Daemon) closeControl() {
	d.control.Close()
	_ = os.Remove(d.opts.Paths.socket()) // a new one takes the place of one that is left
}

// account is the user that systemd runs the daemon as. Who is in the group of
// that name may read the status.
const account = "cfwall"

// restrict lets root, this user and the group connect, nobody else.
func restrict(path string) error {
	gid, err := patiently(newPatient("the disk", startPatience), "/etc/group", func(context.Context) (int, error) {
		g, err := user.LookupGroup(account)
		if err != nil {
			return -1, err
		}
		return strconv.Atoi(g.Gid)
	})
	if err != nil || giveToGroup(path, gid) != nil {
		return os.Chmod(path, 0o600)
	}
	return os.Chmod(path, 0o660)
}

// giveToGroup leaves a file alone that is the group's already: under systemd no
// owner can be changed.
func giveToGroup(path string, gid int) error {
	var at unix.Stat_t
	if err := unix.Lstat(path, &at); err == nil && int(at.Gid) == gid {
		return nil
	}
	return os.Chown(path, -1, gid)
}

type peerKey struct{}

// withPeer notes the user at the other end.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, c.(*member).uid)
}

// unknown is a user whom the kernel does not name.
const unknown = -1

// peer is the user at the other end.
func peer(ctx context.Context) int {
	if uid, ok := ctx.Value(peerKey{}).(int); ok {
		return uid
	}
	return unknown
}

// maxRequest bounds a request in bytes.
const maxRequest = 1 << 20 // an order may name thousands of sessions

func (d *Daemon) handler() http.Handler {
	mux := http.NewServeMux()
	for name, v := range verbs {
		mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
			if !v.admits(peer(r.Context())) {
				answer(w, nil, refuse(ExitError, "run it as root: sudo cfwall ...", "only root may do that"))
				return
			}
			request, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
			if err != nil {
				return // the client is gone, or hostile
			}
			ctx, cancel := context.WithTimeout(r.Context(), clientTimeout)
			defer cancel()
			result, err := v.serve(ctx, d, request)
			answer(w, result, err)
		})
	}
	return mux
}

// failure is how an error travels over the control socket.
type failure struct {
	Error string `json:"error"`
	Hint  string `json:"hint"`
	Exit  int    `json:"exit"`
}

func answer(w http.ResponseWriter, result any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		r := refusalOf(err)
		w.WriteHeader(http.StatusUnprocessableEntity)
		result = failure{r.Error(), r.Hint, r.Exit}
	}
	_ = json.NewEncoder(w).Encode(result) // the client may be gone
}
