package cloudflared

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

const (
	connector = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
	readyBody = `{"status":200,"readyConnections":4,"connectorId":"` + connector + `"}`
	downBody  = `{"status":503,"readyConnections":0,"connectorId":"` + connector + `"}`
)

// serve answers every request at an address; port 0 stands for any.
func serve(t *testing.T, address string, answer http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(answer)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return l.Addr().String()
}

// says answers with a status and a body, at /ready alone.
func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/ready" {
			http.NotFound(w, r)
			return
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

func TestAsk(t *testing.T) {
	const other, silent = " answers, but not like cloudflared", " does not answer within 1s"
	ready := Instance{Ready: true, Connections: 4, Connector: connector}
	tests := map[string]struct {
		answer http.HandlerFunc
		want   Instance // Problem without the address
	}{
		"ready":              {says(200, readyBody), ready},
		"no connections":     {says(503, downBody), Instance{Connector: connector}},
		"no connector":       {says(200, `{"status":200,"readyConnections":1}`), Instance{Ready: true, Connections: 1}},
		"more fields":        {says(200, `{"readyConnections":1,"version":"2031.1.0"}`), Instance{Ready: true, Connections: 1}},
		"ready without any":  {says(200, downBody), Instance{Connector: connector}},
		"another program":    {says(200, `{"status":"ok"}`), Instance{Problem: other}},
		"HTML":               {says(200, "<!doctype html><title>Router</title>"), Instance{Problem: other}},
		"nothing":            {says(200, ""), Instance{Problem: other}},
		"array":              {says(200, "["+readyBody+"]"), Instance{Problem: other}},
		"not found":          {says(404, readyBody), Instance{Problem: other}},
		"negative":           {says(200, `{"readyConnections":-1}`), Instance{Problem: other}},
		"more than the bell": {says(200, `{"readyConnections":1,"connectorId":"\u001b[2J\u0007"}`), Instance{Problem: other}},
		"huge":               {says(200, readyBody+strings.Repeat(" ", 8<<20)), Instance{Problem: other}},
		"huge header": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Server", strings.Repeat("x", 1<<20))
			fmt.Fprint(w, readyBody)
		}, Instance{Problem: other}},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ready" {
				http.Redirect(w, r, "/there", http.StatusFound)
				return
			}
			fmt.Fprint(w, readyBody)
		}, Instance{Problem: other}},
		"not HTTP":  {raw("SSH-2.0-OpenSSH_9.9\r\n"), Instance{Problem: other}},
		"cut short": {raw("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n" + readyBody), Instance{Problem: other}},
		"hangs":     {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, Instance{Problem: silent}},
		"hangs in the middle": {func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, readyBody[:20])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, Instance{Problem: silent}},
	}
	var addresses []string
	var want []Instance
	for name, tt := range tests {
		address := serve(t, "127.0.0.1:0", tt.answer)
		t.Logf("%s: %s", address, name)
		tt.want.Address = address
		if tt.want.Problem != "" {
			tt.want.Problem = address + tt.want.Problem
		}
		addresses, want = append(addresses, address), append(want, tt.want)
	}
	if diff := cmp.Diff(want, Ask(t.Context(), addresses)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// raw answers with bytes.
func raw(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			fmt.Fprint(c, answer)
			c.Close()
		}
	}
}

func TestAskWhereNobodyAnswers(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://"+serve(t, "127.0.0.1:0", says(200, readyBody)))
	for address, problem := range map[string]string{
		"127.0.0.1:1":      "nobody listens at 127.0.0.1:1",
		"[::1]:1":          "nobody listens at [::1]:1",
		"192.0.2.1:20241":  "connecting to 192.0.2.1:20241: connect: network is unreachable",
		"no such host:443": `parse "http://no%20such%20host:443/ready": invalid URL escape "%20"`,
	} {
		want := []Instance{{Address: address, Problem: problem}}
		if diff := cmp.Diff(want, Ask(t.Context(), []string{address})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestFind(t *testing.T) {
	if got := Find(t.Context()); len(got) > 0 {
		t.Errorf("nobody is there: %v", got)
	}
	serve(t, "127.0.0.1:20241", says(200, readyBody))
	serve(t, "127.0.0.1:20242", says(200, "OK"))
	serve(t, "127.0.0.1:20245", says(503, downBody))
	want := []Instance{
		{Address: "127.0.0.1:20241", Ready: true, Connections: 4, Connector: connector},
		{Address: "127.0.0.1:20245", Connector: connector},
	}
	if diff := cmp.Diff(want, Find(t.Context())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAskByIPv6(t *testing.T) {
	address := serve(t, "[::1]:0", says(200, readyBody))
	if got := Ask(t.Context(), []string{address}); len(got) != 1 || !got[0].Ready {
		t.Errorf("got %+v", got)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(200, []byte(readyBody))
	f.Add(503, []byte(downBody))
	f.Add(200, []byte(`{"readyConnections":1e99}`))
	f.Add(200, []byte(`{"readyConnections":null,"readyconnections":2}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		i, err := parseAnswer(status, body)
		switch {
		case err != nil:
			if i != (Instance{}) {
				t.Errorf("%+v with an error", i)
			}
		case i.Ready && (status != 200 || i.Connections == 0), i.Connections < 0,
			i.Connector != "" && len(i.Connector) != len(connector), strings.ContainsFunc(i.Connector, func(r rune) bool { return !unicode.IsPrint(r) }):
			t.Errorf("%d %q is %+v", status, body, i)
		case !json.Valid(body):
			t.Errorf("%q passed", body)
		}
	})
}
