package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/cfwall/cfwall/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

func TestDemo(t *testing.T) {
	lab.Kernel(t)
	cfwall := t.TempDir() + "/cfwall"
	if out, err := exec.Command("go", "build", "-o", cfwall, "../../cmd/cfwall").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if code := show(cfwall); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
