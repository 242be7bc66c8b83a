package ipranges

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var quiet = log.New(io.Discard, "", 0)

// hostile are variables that make other programs connect elsewhere, trust
// others or identify themselves differently.
var hostile = []string{
	"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "SOCKS_PROXY", "SOCKS_SERVER", "PROXY", "GLOBAL_AGENT_HTTPS_PROXY",
	"http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "socks_proxy", "rsync_proxy", "npm_config_proxy", "CGI_HTTP_PROXY",
	"CLOUDFLARE_BASE_URL", "CLOUDFLARE_API_BASE_URL", "CLOUDFLARE_API_TOKEN", "CLOUDFLARE_API_KEY", "CLOUDFLARE_EMAIL", "CF_API_TOKEN", "CF_API_URL",
	"CFWALL_API", "CFWALL_RANGES_API", "CFWALL_CONFIG", "CFWALL_STATE_DIR", "BASE_URL", "API_URL", "HOST", "USER_AGENT", "NETRC",
	"SSLKEYLOGFILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "NODE_TLS_REJECT_UNAUTHORIZED", "PYTHONHTTPSVERIFY", "GIT_SSL_NO_VERIFY", "INSECURE",
}

// Nothing in the environment sends the requests elsewhere or changes them. The
// fetch is in a process of its own, since Go looks for proxies only once.
func TestFetchIgnoresEnvironment(t *testing.T) {
	const inChild = "IPRANGES_TEST_CHILD"
	if os.Getenv(inChild) != "" {
		fetchByName(t)
		return
	}
	var hits atomic.Int32
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	t.Cleanup(trap.Close)
	child := exec.Command(os.Args[0], "-test.run=^TestFetchIgnoresEnvironment$", "-test.v")
	child.Env = []string{inChild + "=1"}
	for _, name := range hostile {
		child.Env = append(child.Env, name+"="+trap.URL)
	}
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestFetchIgnoresEnvironment") || hits.Load() > 0 {
		t.Errorf("%v, %d requests to the trap\n%s", err, hits.Load(), out)
	}
	if len(hostile) < 40 {
		t.Errorf("only %d variables", len(hostile))
	}
}

// fetchByName uses a name, since Go's proxy rules leave out loopback addresses.
func fetchByName(t *testing.T) {
	s := newSite(t)
	c := s.client()
	var mu sync.Mutex
	dialed := map[string]bool{}
	c.dial = func(ctx context.Context, network, to string) (net.Conn, error) {
		mu.Lock()
		dialed[to] = true
		mu.Unlock()
		return always(s.Listener.Addr().String())(ctx, network, to)
	}
	source := Source{API: "https://example.com/client/v4/ips", Text: []string{"https://example.com/ips-v4", "https://example.com/ips-v6"}}
	got, err := c.Fetch(t.Context(), source)
	if err != nil || got.Agreement != Agree {
		t.Errorf("got %+v, %v", got, err)
	}
	if len(dialed) != 1 || !dialed["example.com:443"] {
		t.Errorf("dialed %v", dialed)
	}
}

// pipes is a listener without a network, so that synctest can own the clock.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	read   atomic.Int64 // bytes that the client has taken
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return countingConn{client, &p.read}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	return n, err
}

// inBubble serves every address by handler over pipes, on synctest's clock.
func inBubble(t *testing.T, handler http.HandlerFunc, f func(t *testing.T, c *Client, p *pipes)) {
	certificates := newSite(t) // for its certificate only
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: handler, TLSConfig: certificates.TLS.Clone(), ErrorLog: quiet}
		go func() { _ = server.ServeTLS(p, "", "") }()
		c := certificates.client()
		c.dial = p.dial
		f(t, c, p)
		_ = server.Close()
		time.Sleep(time.Minute) // for handlers that sleep
	})
}

// However slow the other side is, a fetch ends after 10 seconds.
func TestFetchTime(t *testing.T) {
	trickle := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, " "); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Second)
		}
	}
	tests := map[string]http.HandlerFunc{
		"one byte a second": trickle,
		"no answer":         func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"slow redirects": func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(4 * time.Second)
			http.Redirect(w, r, "/", http.StatusFound)
		},
	}
	source := Source{API: "https://example.com/api", Text: []string{"https://example.com/4", "https://example.com/6"}}
	for name, handler := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, handler, func(t *testing.T, c *Client, _ *pipes) {
				began := time.Now()
				_, err := c.Fetch(t.Context(), source)
				wantClass(t, err, ClassTimeout)
				if took := time.Since(began); took != maxFetchTime {
					t.Errorf("took %v", took)
				}
			})
		})
	}
	t.Run("no handshake", func(t *testing.T) {
		inBubble(t, http.NotFound, func(t *testing.T, c *Client, _ *pipes) {
			c.dial = func(context.Context, string, string) (net.Conn, error) {
				client, _ := net.Pipe()
				return client, nil
			}
			began := time.Now()
			_, err := c.Fetch(t.Context(), source)
			wantClass(t, err, ClassTimeout)
			if took := time.Since(began); took != maxFetchTime {
				t.Errorf("took %v", took)
			}
		})
	})
	t.Run("API hangs, text pages work", func(t *testing.T) {
		pages := map[string][]byte{"/4": recorded(t, "ips-v4.txt"), "/6": recorded(t, "ips-v6.txt")}
		handler := func(w http.ResponseWriter, r *http.Request) {
			if page, ok := pages[r.URL.Path]; ok {
				_, _ = w.Write(page)
				return
			}
			<-r.Context().Done()
		}
		inBubble(t, handler, func(t *testing.T, c *Client, _ *pipes) {
			got, err := c.Fetch(t.Context(), source)
			if err != nil || got.From != FromText {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	})
}

// Of an endless body 64 KiB are read, and what the buffers below take.
func TestFetchSize(t *testing.T) {
	endless := func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(w, "104.%d.%d.0/24\n", i/256%256, i%256); err != nil {
				return
			}
		}
	}
	inBubble(t, endless, func(t *testing.T, c *Client, p *pipes) {
		_, err := c.get(t.Context(), "https://example.com/4")
		wantClass(t, err, ClassTooLarge)
		c.http.CloseIdleConnections()
		if n := p.read.Load(); n > 2*maxBody {
			t.Errorf("%d bytes were read", n)
		}
	})
}
