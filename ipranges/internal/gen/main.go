// Command gen turns a recorded answer of Cloudflare's API into the list that
// package ipranges embeds.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/cfwall/cfwall/ipranges"
)

const output = "embedded.json"

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: gen YYYY-MM-DD ANSWER.json (the date of the recording, and the API's answer)")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(date, input string) error {
	body, err := os.ReadFile(input)
	if err != nil {
		return fmt.Errorf("reading the recorded answer: %w", err)
	}
	record, err := generate(date, body)
	if err != nil {
		return err
	}
	if err := os.WriteFile(output, record, 0o644); err != nil {
		return fmt.Errorf("writing the embedded list: %w", err)
	}
	return nil
}

// generate believes a recorded answer no more easily than a fresh one.
func generate(date string, body []byte) ([]byte, error) {
	recorded, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return nil, fmt.Errorf("reading the date of the recording: %w", err)
	}
	list, etag, err := ipranges.ParseJSON(body)
	if err != nil {
		return nil, fmt.Errorf("reading the recorded answer: %w", err)
	}
	if err := ipranges.Plausible(list); err != nil {
		return nil, fmt.Errorf("checking the recorded answer: %w", err)
	}
	return encode(ipranges.Record{List: list, From: ipranges.FromEmbedded, ETag: etag, FetchedAt: recorded})
}

func encode(r ipranges.Record) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetIndent("", "\t") // one network a line, so that a change is easy to review
	if err := encoder.Encode(r); err != nil {
		return nil, fmt.Errorf("encoding the list: %w", err)
	}
	return b.Bytes(), nil
}
