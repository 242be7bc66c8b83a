package ipranges

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// site stands in for Cloudflare: one TLS server for all three addresses.
type site struct {
	*httptest.Server
	api, v4, v6 http.HandlerFunc
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{api: serve(recorded(t, "api-ips.json")), v4: serve(recorded(t, "ips-v4.txt")), v6: serve(recorded(t, "ips-v6.txt"))}
	mux := http.NewServeMux()
	mux.HandleFunc("/client/v4/ips", func(w http.ResponseWriter, r *http.Request) { s.api(w, r) })
	mux.HandleFunc("/ips-v4", func(w http.ResponseWriter, r *http.Request) { s.v4(w, r) })
	mux.HandleFunc("/ips-v6", func(w http.ResponseWriter, r *http.Request) { s.v6(w, r) })
	s.Server = httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = quiet
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *site) source() Source {
	return Source{API: s.URL + "/client/v4/ips", Text: []string{s.URL + "/ips-v4", s.URL + "/ips-v6"}}
}

// client trusts the site.
func (s *site) client() *Client {
	c := NewClient("cfwall/test (+https://github.com/cfwall/cfwall)")
	c.tls.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	return c
}

func serve(body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusMovedPermanently) }
}

// raw answers with bytes of its own and hangs up.
func raw(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, answer)
		_ = conn.Close()
	}
}

func zipped(body []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(body)
	_ = z.Close()
	return b.Bytes()
}

func list4(n int, network string) string {
	entries := make([]string, n)
	for i := range entries {
		entries[i] = `"` + fmt.Sprintf(network, i/256, i%256) + `"`
	}
	return envelope(strings.Join(entries, ","), good6)
}

// badAnswers are all the bad answers of the API that are not in badJSON.
func badAnswers(t *testing.T) []badAnswer {
	good := string(recorded(t, "api-ips.json"))
	elsewhere := httptest.NewTLSServer(serve([]byte(good)))
	t.Cleanup(elsewhere.Close)
	poison := func(v4, v6 string) http.HandlerFunc { return serve([]byte(envelope(v4, v6))) }
	return []badAnswer{
		{"204", status(204, ""), ClassStatus},
		{"206", status(206, good), ClassStatus},
		{"304 that nobody asked for", status(304, ""), ClassStatus},
		{"400", status(400, good), ClassStatus},
		{"403 challenge", status(403, "<html>Attention! Prove that you are human.</html>"), ClassStatus},
		{"404 of 280 KB", status(404, "<html>"+strings.Repeat("1.2.3.4 ", 35000)), ClassStatus},
		{"429", status(429, `{"success":false}`), ClassStatus},
		{"500", status(500, "<html><h1>500 Oops</h1></html>"), ClassStatus},
		{"502 with the list", status(502, good), ClassStatus},
		{"503", status(503, ""), ClassStatus},
		{"301 without a target", status(301, ""), ClassStatus},
		{"300 with the list", status(300, good), ClassStatus},
		{"redirect to itself", redirect("/client/v4/ips"), ClassRedirect},
		{"the list after three redirects", func(w http.ResponseWriter, r *http.Request) {
			if len(r.URL.RawQuery) < 3 {
				http.Redirect(w, r, r.URL.Path+"?"+r.URL.RawQuery+"x", http.StatusFound)
				return
			}
			_, _ = io.WriteString(w, good)
		}, ClassRedirect},
		{"redirect to http", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+r.Host+"/client/v4/ips", http.StatusFound)
		}, ClassRedirect},
		{"redirect to another host", redirect(elsewhere.URL), ClassRedirect},
		{"redirect to another name of this host", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+strings.Replace(r.Host, "127.0.0.1", "example.com", 1)+"/", http.StatusFound)
		}, ClassRedirect},
		{"redirect to a login page by 307", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://portal.invalid/login", http.StatusTemporaryRedirect)
		}, ClassRedirect},
		{"redirect to a file", redirect("file:///etc/passwd"), ClassRedirect},
		{"no HTTP", raw("SSH-2.0-OpenSSH_9.2\r\n"), ClassNetwork},
		{"hangs up", raw(""), ClassNetwork},
		{"header of 1 MB", raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"), ClassNetwork},
		{"two lengths", raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), ClassNetwork},
		{"no length", raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + good), ClassUnframed},
		{"HTTP/1.0", raw("HTTP/1.0 200 OK\r\n\r\n" + good), ClassUnframed},
		{"shorter than it says", raw(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(good)+1, good)), ClassTruncated},
		{"length that cuts it", raw(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(good)-2, good[:len(good)-2])), ClassTruncated},
		{"chunks without an end", raw(fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(good), good)), ClassTruncated},
		{"says 1 GB", raw("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n" + good), ClassTooLarge},
		{"a million entries", serve([]byte(list4(1e6, "104.%d.%d.0/24"))), ClassTooLarge},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := io.WriteString(w, strings.Repeat(" ", 4096)); err != nil {
					return
				}
			}
		}, ClassTooLarge},
		{"gzip that nobody asked for", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zipped([]byte(good)))
		}, ClassBadJSON},
		{"gzip bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zipped(make([]byte, 8<<20)))
		}, ClassBadJSON},
		{"everything", poison(`"0.0.0.0/0"`, `"::/0"`), ClassTooWide},
		{"half of IPv4", poison(`"128.0.0.0/1"`, good6), ClassTooWide},
		{"/7", poison(`"104.0.0.0/7"`, good6), ClassTooWide},
		{"all unicast IPv6", poison(good4, `"2000::/3"`), ClassTooWide},
		{"IPv6 /18", poison(good4, `"2606:4000::/18"`), ClassTooWide},
		{"private", poison(good4+`,"10.0.0.0/8"`, good6), ClassNotRoutable},
		{"private /32", poison(good4+`,"192.168.1.1/32"`, good6), ClassNotRoutable},
		{"loopback", poison(good4+`,"127.0.0.1/32"`, good6), ClassNotRoutable},
		{"carrier-grade NAT", poison(good4+`,"100.64.0.0/10"`, good6), ClassNotRoutable},
		{"multicast", poison(good4+`,"224.0.0.0/24"`, good6), ClassNotRoutable},
		{"documentation", poison(good4, good6+`,"2001:db8::/32"`), ClassNotRoutable},
		{"6to4", poison(good4, good6+`,"2002:6810::/32"`), ClassNotRoutable},
		{"link local", poison(good4, good6+`,"fe80::/64"`), ClassNotRoutable},
		{"IPv6 that is not assigned", poison(good4, good6+`,"4000::/32"`), ClassNotRoutable},
		{"600 networks", serve([]byte(list4(1200, "104.%d.%d.0/25"))), ClassTooMany},
		{"a whole /8", poison(`"104.0.0.0/8"`, good6), ClassTooMuchSpace},
	}
}

type badAnswer struct {
	name    string
	handler http.HandlerFunc
	class   Class
}

// Every bad answer of the API is refused, each with its class, and the Book
// keeps the list that it has.
func TestBadAnswers(t *testing.T) {
	s := newSite(t)
	s.v4 = status(503, "")
	answers := badAnswers(t)
	for _, tt := range badJSON {
		answers = append(answers, badAnswer{tt.name, serve([]byte(tt.body)), tt.class})
	}
	t.Logf("%d bad answers", len(answers))
	for _, tt := range answers {
		t.Run(tt.name, func(t *testing.T) {
			s.api = tt.handler
			answer, err := s.client().Fetch(t.Context(), s.source())
			wantClass(t, err, tt.class)
			if answer.List.Len() > 0 {
				t.Errorf("an error, and yet %v", answer.List)
			}
			keepsItsList(t, err, tt.class)
		})
	}
}

func keepsItsList(t *testing.T, err error, class Class) {
	t.Helper()
	before := Book{Current: Embedded(), Held: &Held{}, Pending: &Pending{}, Failures: 2}
	after, outcome := before.Fail(err, start)
	if !after.Current.List.Equal(before.Current.List) || after.Failures != 3 || after.Held == nil || after.Pending == nil {
		t.Errorf("the Book became %+v", after)
	}
	if outcome.Class != class || outcome.Text == "" || outcome.Added.Len()+outcome.Removed.Len() > 0 {
		t.Errorf("the outcome is %+v", outcome)
	}
}

// Every bad text page spoils the fallback, in either place, and is no reason
// to distrust the API.
func TestBadTextPages(t *testing.T) {
	s := newSite(t)
	down, up := status(500, ""), s.api
	answers := []badAnswer{
		{"404 page", status(404, "<html>"+strings.Repeat("1.2.3.4 ", 35000)), ClassStatus},
		{"301 without a target", status(301, ""), ClassStatus},
		{"redirect to itself", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, 302) }, ClassRedirect},
		{"the page, and no length", raw("HTTP/1.1 200 OK\r\n\r\n" + string(recorded(t, "ips-v4.txt"))), ClassUnframed},
		{"the page, cut at the end of a line", raw("HTTP/1.1 200 OK\r\nContent-Length: 230\r\n\r\n173.245.48.0/20\n"), ClassTruncated},
		{"endless", serve(bytes.Repeat([]byte("104.16.0.0/13\n"), 10000)), ClassTooLarge},
		{"private", serve([]byte("10.0.0.0/8\n")), ClassNotRoutable},
		{"/1 without host bits", serve([]byte("128.0.0.0/1")), ClassTooWide},
	}
	for _, tt := range badText {
		answers = append(answers, badAnswer{tt.name, serve([]byte(tt.body)), tt.class})
	}
	t.Logf("%d bad pages", len(answers))
	for _, tt := range answers {
		t.Run(tt.name, func(t *testing.T) {
			good := s.v4
			s.v4 = tt.handler
			defer func() { s.v4 = good }()
			_, err := s.client().fetchText(t.Context(), s.source().Text)
			wantClass(t, err, tt.class)
			s.api = down
			answer, err := s.client().Fetch(t.Context(), s.source())
			wantClass(t, err, ClassStatus)
			if answer.List.Len() > 0 {
				t.Errorf("an error, and yet %v", answer.List)
			}
			s.api = up
			answer, err = s.client().Fetch(t.Context(), s.source())
			if err != nil || answer.Agreement != Unknown || answer.Doubt == "" || !answer.List.Equal(published(t)) {
				t.Errorf("beside a good API: %+v, %v", answer, err)
			}
		})
	}
	s.v4, s.v6 = s.v6, s.v4
	_, err := s.client().fetchText(t.Context(), s.source().Text)
	wantClass(t, err, ClassWrongFamily)
	s.v4 = s.v6
	_, err = s.client().fetchText(t.Context(), s.source().Text)
	wantClass(t, err, ClassWrongFamily)
}

func TestFetch(t *testing.T) {
	s := newSite(t)
	slash := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "2" { // two redirects, to the same host
			http.Redirect(w, r, r.URL.Path+"?"+map[string]string{"": "1", "1": "2"}[r.URL.RawQuery], 301)
			return
		}
		_, _ = w.Write(recorded(t, "ips-v6.txt"))
	}
	html := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-16")
		_, _ = w.Write(recorded(t, "api-ips.json"))
	}
	chunks := func(w http.ResponseWriter, _ *http.Request) {
		for line := range bytes.Lines(recorded(t, "ips-v4.txt")) {
			_, _ = w.Write(line)
			_ = http.NewResponseController(w).Flush()
		}
	}
	tests := []struct {
		name            string
		api, v4, v6     http.HandlerFunc
		from, agreement string
	}{
		{"all well", s.api, s.v4, s.v6, FromAPI, Agree},
		{"final newlines", serve(append(recorded(t, "api-ips.json"), '\n')), serve(append(recorded(t, "ips-v4.txt"), '\n')), s.v6, FromAPI, Agree},
		{"two redirects", s.api, s.v4, slash, FromAPI, Agree},
		{"content type of a web page", html, s.v4, s.v6, FromAPI, Agree},
		{"in chunks", s.api, chunks, s.v6, FromAPI, Agree},
		{"IPv4 page down", s.api, status(503, ""), s.v6, FromAPI, Unknown},
		{"IPv6 page down", s.api, s.v4, status(503, ""), FromAPI, Unknown},
		{"API down", status(503, ""), s.v4, s.v6, FromText, Unknown},
		{"API implausible", serve([]byte(envelope(`"10.0.0.0/8"`, good6))), s.v4, s.v6, FromText, Unknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.api, s.v4, s.v6 = tt.api, tt.v4, tt.v6
			before := time.Now()
			got, err := s.client().Fetch(t.Context(), s.source())
			if err != nil {
				t.Fatal(err)
			}
			if !got.List.Equal(published(t)) || got.From != tt.from || got.Agreement != tt.agreement {
				t.Errorf("got %+v", got)
			}
			if (got.Doubt == "") != (tt.agreement == Agree) || got.At.Before(before) {
				t.Errorf("doubt %q at %v", got.Doubt, got.At)
			}
			if wantTag := tt.from == FromAPI; (got.ETag == "38f79d050aa027e3be3865e495dcc9bc") != wantTag {
				t.Errorf("etag %q", got.ETag)
			}
		})
	}
}

func TestFetchRequest(t *testing.T) {
	s := newSite(t)
	var requests atomic.Int32
	api := s.api
	s.api = func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		w.Header().Set("ETag", `"abc"`)
		if r.UserAgent() != "cfwall/test (+https://github.com/cfwall/cfwall)" || r.Method != http.MethodGet {
			t.Errorf("%s by %q", r.Method, r.UserAgent())
		}
		for _, name := range []string{"If-None-Match", "If-Modified-Since", "Accept-Encoding", "Cookie", "Authorization", "Referer"} {
			if v := r.Header.Get(name); v != "" {
				t.Errorf("%s: %s", name, v)
			}
		}
		api(w, r)
	}
	c := s.client()
	for range 2 {
		if _, err := c.Fetch(t.Context(), s.source()); err != nil {
			t.Fatal(err)
		}
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("%d requests in two fetches", n)
	}
}

func TestFetchChinaNetwork(t *testing.T) {
	s := newSite(t)
	source := s.source()
	source.ChinaNetwork = true
	source.API += "?a=b"
	china := networks("111.13.0.0/16 2408:871a::/32")
	answer := func(field string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if q := r.URL.Query(); q.Get("networks") != "jdcloud" || q.Get("a") != "b" {
				t.Errorf("asked for %s", r.URL)
			}
			_, _ = io.WriteString(w, strings.Replace(string(recorded(t, "api-ips.json")), `"etag"`, field+`"etag"`, 1))
		}
	}
	s.api = answer(`"jdcloud_cidrs":["111.13.0.0/16","2408:871a::/32"],`)
	got, err := s.client().Fetch(t.Context(), source)
	if err != nil || !got.List.Equal(published(t).Union(china)) || got.Agreement != Agree {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, field := range []string{"", `"jdcloud_cidrs":[],`, `"jdcloud_cidrs":null,`} {
		s.api = answer(field)
		_, err := s.client().Fetch(t.Context(), source)
		wantClass(t, err, ClassChinaMissing)
	}
	s.api = answer(`"jdcloud_cidrs":["10.0.0.0/8"],`)
	_, err = s.client().Fetch(t.Context(), source)
	wantClass(t, err, ClassNotRoutable)
}

func TestFetchBadSource(t *testing.T) {
	s := newSite(t)
	plain := strings.Replace(s.URL, "https:", "http:", 1)
	for _, address := range []string{"", "x", plain, "ftp://127.0.0.1/", "//127.0.0.1/", "https://", "https:///ips", "https://user@127.0.0.1/", "https://127.0.0.1:x/", "\x7f"} {
		_, err := s.client().Fetch(t.Context(), Source{API: address, Text: []string{address, address}})
		wantClass(t, err, ClassBadSource)
	}
	_, err := s.client().Fetch(t.Context(), Source{API: "x"})
	wantClass(t, err, ClassBadSource)
	got, err := s.client().Fetch(t.Context(), Source{API: s.source().API})
	if err != nil || got.Agreement != Unknown {
		t.Errorf("without text pages: %+v, %v", got, err)
	}
}

func TestFetchTLS(t *testing.T) {
	s := newSite(t)
	tests := []struct {
		name string
		set  func(c *Client)
	}{
		{"not trusted", func(c *Client) { c.tls.RootCAs = nil }},
		{"clock at 1969", func(c *Client) { c.tls.Time = func() time.Time { return time.Unix(-1e6, 0) } }},
		{"clock at 2100", func(c *Client) { c.tls.Time = func() time.Time { return time.Unix(4.2e9, 0) } }},
		{"another name", func(c *Client) { c.dial = always(s.Listener.Addr().String()) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, source := s.client(), s.source()
			if tt.set(c); tt.name == "another name" {
				source = Source{API: "https://api.cloudflare.invalid/", Text: source.Text[:0]}
			}
			_, err := c.Fetch(t.Context(), source)
			wantClass(t, err, ClassTLS)
		})
	}
	t.Run("TLS 1.1", func(t *testing.T) {
		old := httptest.NewUnstartedServer(s.Config.Handler)
		old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		old.Config.ErrorLog = quiet
		old.StartTLS()
		t.Cleanup(old.Close)
		_, err := s.client().Fetch(t.Context(), Source{API: old.URL})
		wantClass(t, err, ClassTLS)
	})
	t.Run("no TLS", func(t *testing.T) {
		plain := httptest.NewServer(s.Config.Handler)
		t.Cleanup(plain.Close)
		_, err := s.client().Fetch(t.Context(), Source{API: strings.Replace(plain.URL, "http:", "https:", 1)})
		wantClass(t, err, ClassTLS)
	})
}

func always(address string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
}

func TestFetchNetwork(t *testing.T) {
	s := newSite(t)
	broken := map[Class]error{
		ClassDNS:     &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "api.cloudflare.invalid", IsNotFound: true}},
		ClassNetwork: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errors.New("network is unreachable"))},
		ClassTimeout: context.DeadlineExceeded,
	}
	for class, err := range broken {
		c := s.client()
		c.dial = func(context.Context, string, string) (net.Conn, error) { return nil, err }
		_, err := c.Fetch(t.Context(), s.source())
		wantClass(t, err, class)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.client().Fetch(ctx, s.source())
	wantClass(t, err, ClassCanceled)
}
