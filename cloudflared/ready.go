package cloudflared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"time"
)

// An Instance is a cloudflared, known by the address of its metrics server.
type Instance struct {
	Address     string `json:"address"`
	Ready       bool   `json:"ready"`                  // requests can come in by the tunnel
	Connections int    `json:"connections"`            // to Cloudflare
	Connector   string `json:"connector_id,omitempty"` // a UUID, or "" where it names none
	// Problem says in words why it is not known how the instance is; "" where it is.
	Problem string `json:"problem,omitempty"`
}

// DefaultAddresses is in words where cloudflared listens unless told otherwise.
const DefaultAddresses = "127.0.0.1:20241 to 20245"

// defaultAddresses are those of which cloudflared takes the first that is free
// (metrics/metrics.go in its source).
func defaultAddresses() []string {
	var all []string
	for port := 20241; port <= 20245; port++ {
		all = append(all, fmt.Sprintf("127.0.0.1:%d", port))
	}
	return all
}

// Find asks at the default addresses. What is not cloudflared is left out.
func Find(ctx context.Context) []Instance {
	return slices.DeleteFunc(Ask(ctx, defaultAddresses()), func(i Instance) bool { return i.Problem != "" })
}

const (
	// patience is for one answer, from a program on this host.
	patience = time.Second
	// answerSize is enough for an answer, which has some 90 bytes.
	answerSize = 4 << 10
)

// Ask asks at each address, all at once, and takes 1 s at most.
func Ask(ctx context.Context, addresses []string) []Instance {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := &http.Client{
		// The zero value has no proxy, which would answer for another host.
		Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: answerSize},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	instances := make([]Instance, len(addresses))
	var wg sync.WaitGroup
	for i, address := range addresses {
		wg.Go(func() { instances[i] = ask(ctx, client, address) })
	}
	wg.Wait()
	return instances
}

func ask(ctx context.Context, client *http.Client, address string) Instance {
	failed := func(err error) Instance { return Instance{Address: address, Problem: problem(address, err)} }
	target := url.URL{Scheme: "http", Host: address, Path: "/ready"}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return Instance{Address: address, Problem: err.Error()} // it is no address
	}
	response, err := client.Do(request)
	if err != nil {
		return failed(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerSize+1))
	if err != nil {
		return failed(err)
	}
	instance, err := parseAnswer(response.StatusCode, body)
	if err != nil {
		return failed(err)
	}
	instance.Address = address
	return instance
}

// problem says what went wrong. What another program answered is not repeated.
func problem(address string, err error) string {
	var dialing *net.OpError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens at " + address
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("%s does not answer within %s", address, patience)
	case errors.Is(err, context.Canceled):
		return fmt.Sprintf("%s was not asked to the end", address)
	case errors.As(err, &dialing) && dialing.Op == "dial":
		return fmt.Sprintf("connecting to %s: %v", address, dialing.Err)
	}
	return address + " answers, but not like cloudflared"
}

var errOther = errors.New("not an answer of cloudflared")

// connectorID is the form of a connector's ID. No other text gets to a terminal.
var connectorID = regexp.MustCompile(`^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$`)

// parseAnswer reads {"status":200,"readyConnections":4,"connectorId":"..."}:
// status 200 with connections, 503 without (metrics/readiness.go in
// cloudflared's source).
func parseAnswer(status int, body []byte) (Instance, error) {
	var answer struct {
		Connections *uint16 `json:"readyConnections"`
		Connector   string  `json:"connectorId"`
	}
	if status != http.StatusOK && status != http.StatusServiceUnavailable || len(body) > answerSize {
		return Instance{}, errOther
	}
	err := json.Unmarshal(body, &answer)
	if err != nil || answer.Connections == nil || !connectorID.MatchString(answer.Connector) {
		return Instance{}, errOther
	}
	return Instance{
		Ready:       status == http.StatusOK && *answer.Connections > 0,
		Connections: int(*answer.Connections),
		Connector:   answer.Connector,
	}, nil
}
