package ipranges

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Limits of a fetch. Real answers are 505, 230 and 104 bytes.
const (
	maxFetchTime = 10 * time.Second // for all requests together
	maxBody      = 64 << 10
	maxHeader    = 64 << 10
	maxRedirects = 2
)

// How the two sources compare.
const (
	Agree    = "agree"
	Disagree = "disagree"
	Unknown  = "unknown" // one of them gave no usable answer
)

// The sources of a list.
const (
	FromAPI      = "api"
	FromText     = "text"
	FromEmbedded = "embedded"
)

// Answer is a plausible list as it was just published.
type Answer struct {
	List      List
	From      string // FromAPI or FromText
	ETag      string // the API's digest of the list; for people to compare
	At        time.Time
	Agreement string // Agree, Disagree or Unknown
	Doubt     string // what was wrong with the other source; empty if they agree
}

// Client fetches the list.
//
// It asks for the whole list every time and never sends If-None-Match: the
// bodies are smaller than the handshake before them, a 304 could not confirm a
// removal or be compared with the other source, and it is one more answer that
// somebody in between can give.
type Client struct {
	http      *http.Client
	tls       *tls.Config
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	userAgent string
}

// NewClient makes a Client that introduces itself by userAgent. It takes
// nothing from the environment but Go's trust roots (SSL_CERT_FILE and
// SSL_CERT_DIR): no proxy, no address.
func NewClient(userAgent string) *Client {
	c := &Client{
		// HTTP/1.1 only: three small requests gain nothing from HTTP/2, and
		// whether an answer is complete stays plain to see.
		tls:       &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}},
		dial:      (&net.Dialer{}).DialContext,
		userAgent: userAgent,
	}
	c.http = &http.Client{
		CheckRedirect: checkRedirect,
		Transport: &http.Transport{
			DialTLSContext:         c.dialTLS,
			DisableCompression:     true, // a small body cannot unfold into a large one
			MaxResponseHeaderBytes: maxHeader,
		},
	}
	return c
}

// Fetch asks the API and both text pages at the same time, within 10 seconds
// in all. The API's answer counts; the text pages are the cross-check, and the
// fallback where the API has no usable answer. They serve as fallback only
// together, since one family alone is no list, and not where the China Network
// is wanted, which they lack. Without any usable answer the error is an *Error
// with the API's class, and names what was wrong with both.
func (c *Client) Fetch(ctx context.Context, s Source) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, maxFetchTime)
	defer cancel()
	defer c.http.CloseIdleConnections() // the next fetch is hours away
	var (
		text    List
		textErr error
		wg      sync.WaitGroup
	)
	wg.Go(func() { text, textErr = c.fetchText(ctx, s.Text) })
	api, apiErr := c.fetchAPI(ctx, s)
	wg.Wait()
	if apiErr != nil && textErr == nil && s.ChinaNetwork {
		textErr = refuse(ClassChinaMissing, "they never list the China Network, so they cannot stand in")
	}
	a, err := settle(api, apiErr, text, textErr)
	a.At = time.Now()
	return a, err
}

// apiLists is the API's answer: the list to enforce, and the part of it that
// the text pages should show too.
type apiLists struct {
	all, own List
	etag     string
}

func (c *Client) fetchAPI(ctx context.Context, s Source) (apiLists, error) {
	body, err := c.get(ctx, s.apiURL())
	if err != nil {
		return apiLists{}, err
	}
	a, err := parseAPI(body)
	if err != nil {
		return apiLists{}, err
	}
	lists := apiLists{own: NewList(a.own...), etag: a.etag}
	lists.all = lists.own
	if s.ChinaNetwork {
		// An answer without them would read as the removal of them all.
		if len(a.china) == 0 {
			return apiLists{}, refuse(ClassChinaMissing, "the answer has no networks of the China Network")
		}
		lists.all = lists.own.Union(NewList(a.china...))
	}
	return lists, Plausible(lists.all)
}

func (c *Client) fetchText(ctx context.Context, pages []string) (List, error) {
	if len(pages) != 2 {
		return List{}, refuse(ClassBadSource, "%d text pages are configured, not two", len(pages))
	}
	v4, err := c.fetchPage(ctx, pages[0], "IPv4")
	if err != nil {
		return List{}, err
	}
	v6, err := c.fetchPage(ctx, pages[1], "IPv6")
	if err != nil {
		return List{}, err
	}
	list := NewList(append(v4, v6...)...)
	return list, Plausible(list)
}

func (c *Client) fetchPage(ctx context.Context, page, family string) ([]netip.Prefix, error) {
	body, err := c.get(ctx, page)
	if err != nil {
		return nil, err
	}
	networks, err := ParseText(body)
	if err != nil {
		return nil, fmt.Errorf("%s page: %w", family, err)
	}
	if networks[0].Addr().Is4() != (family == "IPv4") {
		return nil, refuse(ClassWrongFamily, "%s page: %s is not of that family", family, networks[0])
	}
	return networks, nil
}

// settle makes one answer of two. Where the sources differ, no list is made of
// both: whoever could spoil one of them would decide about the result.
func settle(api apiLists, apiErr error, text List, textErr error) (Answer, error) {
	switch {
	case apiErr != nil && textErr != nil:
		return Answer{}, refuse(classOf(apiErr), "API: %w; text pages: %w", apiErr, textErr)
	case apiErr != nil:
		return Answer{List: text, From: FromText, Agreement: Unknown, Doubt: "the API has no usable answer: " + apiErr.Error()}, nil
	}
	a := Answer{List: api.all, From: FromAPI, ETag: api.etag, Agreement: Agree}
	switch {
	case textErr != nil:
		a.Agreement, a.Doubt = Unknown, "the text pages have no usable answer: "+textErr.Error()
	case !text.Equal(api.own):
		a.Agreement, a.Doubt = Disagree, "the text pages differ from the API: "+difference(text.Minus(api.own), api.own.Minus(text))
	}
	return a, nil
}

// get fetches one body, complete and within bounds.
func (c *Client) get(ctx context.Context, address string) ([]byte, error) {
	if err := checkURL(address); err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, &Error{ClassBadSource, fmt.Errorf("making the request: %w", err)}
	}
	request.Header.Set("User-Agent", c.userAgent)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, failure(err, ClassNetwork)
	}
	defer func() { _ = response.Body.Close() }() // nothing was written
	if err := checkResponse(response); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		return nil, failure(fmt.Errorf("reading the answer of %s: %w", address, err), ClassTruncated)
	}
	if len(body) > maxBody {
		return nil, refuse(ClassTooLarge, "the answer of %s is larger than %d bytes", address, maxBody)
	}
	return body, nil
}

func checkResponse(r *http.Response) error {
	chunked := len(r.TransferEncoding) > 0
	switch {
	case r.StatusCode != http.StatusOK:
		return refuse(ClassStatus, "%s answers %d %s", r.Request.URL, r.StatusCode, http.StatusText(r.StatusCode))
	case r.ContentLength > maxBody:
		return refuse(ClassTooLarge, "the answer of %s is %d bytes large, more than %d", r.Request.URL, r.ContentLength, maxBody)
	case r.ContentLength < 0 && !chunked:
		// Its end is the end of the connection. A shorter list would look
		// just like a whole one.
		return refuse(ClassUnframed, "the answer of %s does not say how long it is", r.Request.URL)
	}
	return nil
}

// checkRedirect follows a redirect only to where the request went in the first
// place: the pages have moved to a trailing slash before, never elsewhere.
func checkRedirect(next *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case len(via) > maxRedirects:
		return refuse(ClassRedirect, "more than %d redirects", maxRedirects)
	case next.URL.Scheme != "https", !strings.EqualFold(hostPort(next.URL), hostPort(first)):
		return refuse(ClassRedirect, "redirected from %s to %s", first, excerpt(next.URL.String()))
	}
	return nil
}

func hostPort(u *url.URL) string {
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return u.Host
}

// dialTLS connects and shakes hands itself, since the transport's own errors
// do not tell a failed handshake from a failed connection.
func (c *Client) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := c.dial(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	config := c.tls.Clone()
	config.ServerName, _, err = net.SplitHostPort(address)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the address: %w", err), raw.Close())
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error says more
		return nil, failure(fmt.Errorf("TLS handshake: %w", err), ClassTLS)
	}
	return conn, nil
}

// failure gives a failed request its class: the one it has, or the reason that
// can be told, or otherwise.
func failure(err error, otherwise Class) error {
	class := classOf(err)
	dns := &net.DNSError{}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		class = ClassTimeout
	case errors.Is(err, context.Canceled):
		class = ClassCanceled
	case class != ClassOther:
	case errors.As(err, &dns):
		class = ClassDNS
	default:
		class = otherwise
	}
	return &Error{class, err}
}
