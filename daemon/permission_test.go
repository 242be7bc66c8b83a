package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// protocol is what each verb is expected to be, and a request that it can carry out.
var protocol = map[string]struct {
	writes  bool
	request string
}{
	"status":  {reads, "{}"},
	"config":  {reads, "{}"},
	"plan":    {reads, "{}"},
	"why":     {reads, `{"source": "203.0.113.9"}`},
	"ranges":  {reads, "{}"},
	"allowed": {reads, "{}"},
	"trial":   {reads, "{}"},

	"allow":           {writes, `{"network": "203.0.113.9/32", "lasting": 3600000000000}`},
	"apply":           {writes, "{}"},
	"confirm":         {writes, "{}"},
	"disallow":        {writes, `{"network": "203.0.113.9/32"}`},
	"go-back":         {writes, "{}"},
	"off":             {writes, "{}"},
	"on":              {writes, "{}"},
	"ranges-accept":   {writes, "{}"},
	"ranges-fetch":    {writes, "{}"},
	"ranges-rollback": {writes, "{}"},
	"reload":          {writes, "{}"},
}

const reads, writes = false, true

const refusedToReaders = "only root may do that"

func TestPermissions(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(verbs)), slices.Sorted(maps.Keys(protocol)); !slices.Equal(got, want) {
		t.Fatalf("the verbs are %v, and known are %v", got, want)
	}
	for name, v := range verbs {
		for uid, admitted := range map[int]bool{0: true, os.Geteuid(): true, 4242: !protocol[name].writes, unknown: false} {
			if got := v.admits(uid); got != admitted {
				t.Errorf("%s by user %d: admitted %v, want %v", name, uid, got, admitted)
			}
		}
		if v.admits(peer(t.Context())) {
			t.Errorf("%s: a connection without credentials is admitted", name)
		}
	}
}

// The compiler refuses a verb of which nobody has said who may use it.
func TestVerbWithoutAPermissionDoesNotCompile(t *testing.T) {
	const file = `package daemon

import "context"

func serve(context.Context, *Daemon, []byte) (any, error)  { return nil, nil }
func answer1(context.Context, *Daemon, nothing) (int, error) { return 1, nil }

`
	out, err := compileWith(t, file+"func init() { verbs[`a`], verbs[`b`], verbs[`c`], verbs[`d`] = reading(serve), writing(serve), ask(answer1), change(answer1) }\n")
	if err != nil {
		t.Fatalf("verbs with a permission: %v\n%s", err, out)
	}
	out, err = compileWith(t, file+"func init() { verbs[`a`], verbs[`b`] = serve, inLoop(answer1) }\n")
	if err == nil || strings.Count(out, "does not implement verb (missing method admits)") != 2 {
		t.Errorf("verbs without a permission: %v\n%s", err, out)
	}
}

// compileWith compiles this package and one more file.
func compileWith(t *testing.T, file string) (complaints string, err error) {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "more.go"), file)
	here, err := filepath.Abs("more.go")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{here: filepath.Join(dir, "more.go")}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "overlay.json"), string(overlay))
	out, err := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), ".").CombinedOutput()
	return string(out), err
}

// A refused write does not reach the verb.
func TestRefusedWriteChangesNothing(t *testing.T) {
	engine, table, _ := newTestEngine(t)
	d := &Daemon{engine: engine} // without a loop, a verb that ran would hang
	for name, expected := range protocol {
		if !expected.writes {
			continue
		}
		if code, answer := askAs(t, d, 4242, name, []byte(expected.request)); code == 200 || !strings.Contains(answer, refusedToReaders) {
			t.Fatalf("%s: %d %s", name, code, answer)
		}
	}
	if table.applied != 0 {
		t.Error("the table was changed")
	}
}

// Whatever a stranger sends to a verb that writes, it is not carried out.
func FuzzControl(f *testing.F) {
	f.Add([]byte("{}"))
	f.Add([]byte(`{"network":"0.0.0.0/0","lasting":1}`))
	f.Fuzz(func(t *testing.T, request []byte) {
		for name, expected := range protocol {
			if !expected.writes {
				continue
			}
			if code, _ := askAs(t, &Daemon{}, 4242, name, request); code == 200 {
				t.Errorf("%s was carried out for a stranger", name)
			}
		}
	})
}

// askAs sends a request as a user whom the kernel is taken to have named.
func askAs(t *testing.T, d *Daemon, uid int, name string, request []byte) (code int, answer string) {
	t.Helper()
	r := httptest.NewRequest("POST", "/v1/"+name, bytes.NewReader(request))
	w := httptest.NewRecorder()
	d.handler().ServeHTTP(w, r.WithContext(context.WithValue(t.Context(), peerKey{}, uid)))
	return w.Code, w.Body.String()
}
