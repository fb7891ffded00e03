// Package sidecarprocess runs a real sidecar for tests: `millirank serve` in a process of its own, which can be frozen
// and killed.
package sidecarprocess

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Command is the variable that names the sidecar's executable, `millirank`.
const Command = "MILLIRANK_SIDECAR"

// Starting takes about 2 s of CPU; a machine that is shared may need many times that. Only a hang reaches this.
const patience = 60 * time.Second

// Process is a running sidecar.
type Process struct {
	// Target is where it serves, on loopback.
	Target  string
	command *exec.Cmd
	ended   chan struct{}
}

// Start runs a sidecar until the test ends, with these settings ("NAME=value") as its only MILLIRANK_* and OTEL_*
// variables. The test is skipped where [Command] is not set: `make test-clients-go` sets it.
func Start(t testing.TB, settings ...string) *Process {
	t.Helper()
	executable := os.Getenv(Command)
	if executable == "" {
		t.Skipf("SKIPPED: no sidecar to test against; set %s to the millirank executable, or run: make test-clients-go", Command)
	}
	command := exec.Command(executable, "serve")
	command.Env = append(cleanEnvironment(), append([]string{"MILLIRANK_LISTEN__TCP=127.0.0.1:0"}, settings...)...)
	logs, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatalf("%s=%s: %v", Command, executable, err)
	}
	process := &Process{command: command, ended: make(chan struct{})}
	serving := make(chan string, 1)
	go process.watch(logs, serving)
	t.Cleanup(process.Kill)
	select {
	case process.Target = <-serving:
	case <-process.ended:
		t.Fatal("the sidecar ended before it served; start it by hand to see why")
	case <-time.After(patience):
		t.Fatalf("the sidecar does not serve after %v", patience)
	}
	return process
}

// Freeze stops the process where it is; its connections stay open.
func (p *Process) Freeze() { _ = p.command.Process.Signal(syscall.SIGSTOP) }

// Thaw lets it go on.
func (p *Process) Thaw() { _ = p.command.Process.Signal(syscall.SIGCONT) }

// Kill ends it by SIGKILL, and returns when it is gone.
func (p *Process) Kill() {
	_ = p.command.Process.Kill()
	<-p.ended
}

// Terminate asks it to end by SIGTERM, and returns when it is gone: with everything exported that it had to export.
func (p *Process) Terminate() {
	_ = p.command.Process.Signal(syscall.SIGTERM)
	<-p.ended
}

// watch reads the logs to their end, so that the process never waits for a reader.
func (p *Process) watch(logs io.Reader, serving chan<- string) {
	defer close(p.ended)
	lines := bufio.NewScanner(logs)
	for lines.Scan() {
		var entry struct {
			Message   string   `json:"message"`
			Addresses []string `json:"addresses"`
		}
		if json.Unmarshal(lines.Bytes(), &entry) == nil && entry.Message == "serving" && len(entry.Addresses) > 0 {
			serving <- entry.Addresses[0]
		}
	}
	_ = p.command.Wait()
}

func cleanEnvironment() []string {
	var kept []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "MILLIRANK_") && !strings.HasPrefix(variable, "OTEL_") {
			kept = append(kept, variable)
		}
	}
	return kept
}
