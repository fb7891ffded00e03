// Command search is a small search service over documentation: Bleve's BM25 finds 50 pages, Millirank puts them in
// order within 50 ms. It prints both orders, and why the second is what it is; or it serves them over HTTP.
//
//	millirank serve &
//	millirank collection | search -sidecar 127.0.0.1:50051 "open a file for reading"
//	millirank collection | search -sidecar 127.0.0.1:50051 -listen :8080    # GET /search?q=...
//
// With OTEL_EXPORTER_OTLP_ENDPOINT every search is a trace, from here to the chunks that the sidecar scored.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"

	"github.com/millirank/millirank/clients/go/millirank"
)

const (
	shown       = 5
	warmingTime = 30 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err == nil:
	case interrupted:
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "search:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	target := flag.String("sidecar", sidecarTarget(), "the sidecar: host:port or unix:/path")
	budget := flag.Duration("budget", 50*time.Millisecond, "what a query can wait for a better order")
	pages := flag.String("pages", "", "file of pages (default: standard input)")
	address := flag.String("listen", "", "host:port to answer GET /search?q=... on, instead of the queries given")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: search [-sidecar TARGET] [-budget TIME] [-pages FILE] QUERY...|-listen ADDRESS")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 && *address == "" {
		return fmt.Errorf("no query; try: search \"open a file for reading\"")
	}
	endTracing, err := setUpTracing(ctx)
	if err != nil {
		return fmt.Errorf("exporting traces: %w", err)
	}
	defer func() { err = errors.Join(err, endTracing()) }()
	started := time.Now()
	index, err := readIndex(*pages)
	if err != nil {
		return fmt.Errorf("reading pages: %w", err)
	}
	defer func() { _ = index.Close() }()
	fmt.Printf("%d pages indexed in %.1f s (Bleve, BM25)\n", index.Size(), time.Since(started).Seconds())

	client, err := millirank.New(*target)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()

	service := &Service{index: index, reranker: client, tracer: otel.Tracer("search"), budget: *budget}
	if *address != "" {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *address)
		if err != nil {
			return err
		}
		return serve(ctx, listener, service)
	}
	warmUp(ctx, client)
	for _, query := range flag.Args() {
		answer, err := service.Search(ctx, query)
		if err != nil {
			return err
		}
		show(query, answer, *budget)
	}
	return nil
}

// sidecarTarget is where the pod says that the sidecar is, or where one listens by default.
func sidecarTarget() string {
	if target := os.Getenv("MILLIRANK_TARGET"); target != "" {
		return target
	}
	return "127.0.0.1:50051"
}

func readIndex(path string) (*Index, error) {
	if path == "" {
		return NewIndex(os.Stdin)
	}
	pages, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = pages.Close() }()
	return NewIndex(pages)
}

// warmUp waits until the sidecar has loaded its models. A service need not: it would serve first-stage order until then.
func warmUp(ctx context.Context, client *millirank.Client) {
	ctx, cancel := context.WithTimeout(ctx, warmingTime)
	defer cancel()
	if err := client.WaitUntilReady(ctx); err != nil {
		fmt.Println("going on without a sidecar:", err)
		return
	}
	for ctx.Err() == nil {
		decision, err := millirank.ExplainRoute(ctx, client, "warm", []string{"up", "now"}, nil)
		if err == nil && !starting(decision) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func starting(decision *millirank.Decision) bool {
	for _, arm := range decision.Considered {
		if arm.Verdict == millirank.VerdictNotReady {
			return true
		}
	}
	return false
}

func show(query string, answer *Answer, budget time.Duration) {
	ranking := answer.Ranking
	fmt.Printf("\n%s\n  %-45s | within %v\n", query, "BM25", budget)
	for i := range min(shown, len(answer.Found)) {
		after := ranking.Results[i]
		fmt.Printf("  %-45s | %-45s (was %d)\n", cut(answer.Found[i].ID), cut(after.Document.ID), after.Index+1)
	}
	fmt.Printf("  %s in %.1f ms", ranking.Outcome, float64(ranking.Elapsed.Microseconds())/1e3)
	if decision := ranking.Decision; decision != nil {
		fmt.Printf(": %s %s, %d of %d scored, %s", decision.Strategy, decision.Reranker, decision.ScoredK, decision.PlannedK, decision.Reason)
	}
	for _, degradation := range ranking.Degradations {
		fmt.Printf("; %s (%s)", degradation.Reason, degradation.Detail)
	}
	fmt.Println()
}

func cut(id string) string {
	const width = 45
	if runes := []rune(id); len(runes) > width {
		return strings.TrimSpace(string(runes[:width-1])) + "…"
	}
	return id
}
