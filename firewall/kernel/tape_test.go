package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
)

var update = flag.Bool("update", false, "record the kernel's answers in testdata/fuzz/FuzzRead")

// A tape holds the kernel's answers to one read: netlink messages as they
// come, NLMSG_DONE after those to each request.
type tape []byte

func (t tape) append(kind netlink.HeaderType, flags netlink.HeaderFlags, data []byte) tape {
	t = binary.NativeEndian.AppendUint32(t, uint32(unix.NLMSG_HDRLEN+len(data)))
	t = binary.NativeEndian.AppendUint16(t, uint16(kind))
	t = binary.NativeEndian.AppendUint16(t, uint16(flags))
	t = append(t, make([]byte, 8)...) // sequence and port: those of the request
	t = append(t, data...)
	return append(t, make([]byte, -len(data)&3)...)
}

// next cuts the first message off.
func (t *tape) next() (m netlink.Message, ok bool) {
	b := *t
	if len(b) < unix.NLMSG_HDRLEN {
		return m, false
	}
	length := int(binary.NativeEndian.Uint32(b))
	if length < unix.NLMSG_HDRLEN || length > len(b) {
		return m, false
	}
	m.Header.Type = netlink.HeaderType(binary.NativeEndian.Uint16(b[4:]))
	m.Header.Flags = netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:]))
	m.Header.Sequence = binary.NativeEndian.Uint32(b[8:])
	m.Data = b[unix.NLMSG_HDRLEN:length:length]
	*t = b[min((length+3)&^3, len(b)):]
	return m, true
}

// A recorder writes a tape of what a connection receives.
type recorder struct {
	conn
	tape *tape
}

func (r recorder) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		for m, err := range r.conn.ReceiveIter() {
			if errno, ok := errors.AsType[unix.Errno](err); ok {
				*r.tape = r.tape.append(netlink.Error, 0, binary.NativeEndian.AppendUint32(nil, uint32(errno)))
			} else {
				*r.tape = r.tape.append(m.Header.Type, m.Header.Flags, m.Data)
			}
			if !yield(m, err) {
				return
			}
		}
		*r.tape = r.tape.append(netlink.Done, 0, nil)
	}
}

// A player is a connection to a tape.
type player struct{ tape *tape }

func (player) SetDeadline(time.Time) error                                   { return nil }
func (player) Drain() error                                                  { return nil }
func (player) Close() error                                                  { return nil }
func (player) Send(m netlink.Message) (netlink.Message, error)               { return m, nil }
func (player) SendMessages(all []netlink.Message) ([]netlink.Message, error) { return all, nil }

func (p player) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		for {
			m, ok := p.tape.next()
			if !ok || m.Header.Type == netlink.Done {
				return
			}
			if m.Header.Type == netlink.Error && len(m.Data) >= 4 {
				yield(netlink.Message{}, &netlink.OpError{Op: "receive", Err: unix.Errno(binary.NativeEndian.Uint32(m.Data))})
				return
			}
			if !yield(m, nil) {
				return
			}
		}
	}
}

// play reads the table from a tape.
func play(t testing.TB, answers []byte, family firewall.Family) (firewall.State, error) {
	left := tape(answers)
	k := &Kernel{dial: func() (conn, error) { return player{&left}, nil }}
	return k.readOnce(t.Context(), family)
}

// recorded are the cases whose answers are kept, as seeds for FuzzRead too.
// They hold no temporary entries, of which the past would have an end.
var recorded = []string{"ephemeral-port", "container-bridges", "interfaces", "no-table"}

func corpus(name string) string { return filepath.Join("testdata", "fuzz", "FuzzRead", name) }

// TestRecordedAnswers reads what a kernel once answered.
func TestRecordedAnswers(t *testing.T) {
	for _, name := range recorded {
		t.Run(name, func(t *testing.T) {
			want := wanted(t, name)
			if *update {
				record(t, name, want)
			}
			state, err := play(t, recording(t, name), firewall.FamilyINET)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case want == nil && state.Table != nil:
				t.Errorf("there is a table: %v", state.Table)
			case want != nil && !firewall.MakePlan(state, *want).Empty():
				t.Errorf("read something else; the way from there:\n%s", firewall.MakePlan(state, *want))
			}
		})
	}
}

// wanted is nil where the recording is one of no table.
func wanted(t testing.TB, name string) *firewall.Ruleset {
	t.Helper()
	if name == "no-table" {
		return nil
	}
	r := cases.Load(t, name).Build(t)
	return &r
}

func record(t *testing.T, name string, want *firewall.Ruleset) {
	t.Helper()
	h := newHost(t)
	if want != nil {
		h.enforce(t, *want)
	}
	var answers tape
	h.kernel = &Kernel{dial: func() (conn, error) {
		c, err := dialNetfilter()
		return recorder{c, &answers}, err
	}}
	h.read(t, firewall.FamilyINET)
	text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", []byte(answers))
	if err := os.WriteFile(corpus(name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func recording(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(corpus(name))
	if err != nil {
		t.Fatalf("%v (-update makes it)", err)
	}
	quoted := strings.TrimSuffix(string(bytes.SplitN(b, []byte("\n"), 3)[1]), ")")
	text, err := strconv.Unquote(strings.TrimPrefix(quoted, "[]byte("))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(text)
}
