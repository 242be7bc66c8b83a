package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
)

// procField reads a number from a file such as /proc/PID/status.
func procField(file, name string) (float64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+)`).FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("%s has no %s", file, name)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}
