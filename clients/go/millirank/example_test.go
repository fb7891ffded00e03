package millirank_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/millirank/millirank/clients/go/millirank"
	"github.com/millirank/millirank/clients/go/millirank/milliranktest"
)

// hit is a search result of the caller's own.
type hit struct {
	url, body string
	bm25      float64
}

var hits = []hit{
	{"/install", "How to install the tool.", 7.1},
	{"/uninstall", "How to remove the tool.", 6.8},
	{"/faq", "Questions that people ask.", 2.2},
}

// The ten lines that a search service adds: its own hits go in, the same hits come back in a better order.
func ExampleRerank() {
	sidecar := milliranktest.NewSidecar(milliranktest.Ranked(1, 0, 2)) // in production: `millirank serve`
	defer sidecar.Close()
	client, err := millirank.New(sidecar.Target())
	if err != nil {
		panic(err)
	}
	defer func() { _ = client.Close() }()

	describe := func(h hit) millirank.Document {
		return millirank.Document{ID: h.url, Text: h.body, Signals: map[string]float64{"bm25": h.bm25}}
	}
	ranking, err := millirank.Rerank(context.Background(), client, "remove the tool", hits, describe,
		millirank.Budget(5*time.Second), millirank.TopN(2))
	if err != nil {
		panic(err) // the request is wrong, or its context was cancelled; never that the sidecar is slow or gone
	}
	for _, h := range ranking.Documents() {
		fmt.Println(h.url)
	}
	fmt.Println(ranking.Outcome, ranking.Fallback)
	// Output:
	// /uninstall
	// /install
	// ranked false
}

// A sidecar that is not there: the hits come back as they went in, with the reason.
func ExampleRerank_fallback() {
	client, err := millirank.New(milliranktest.DeadTarget())
	if err != nil {
		panic(err)
	}
	defer func() { _ = client.Close() }()

	ranking, err := millirank.Rerank(context.Background(), client, "query", []string{"first", "second"}, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(ranking.Documents(), ranking.Outcome, ranking.Reasons())
	// Output: [first second] first_stage [sidecar_unavailable]
}

// Strict calls want an error in place of first-stage order.
func ExampleStrict() {
	behaviour := milliranktest.Failing(codes.Unavailable, "warming up", milliranktest.ErrorReason("NOT_READY", "millirank.io"))
	sidecar := milliranktest.NewSidecar(behaviour)
	defer sidecar.Close()
	client, err := millirank.New(sidecar.Target())
	if err != nil {
		panic(err)
	}
	defer func() { _ = client.Close() }()

	_, err = millirank.Rerank(context.Background(), client, "query", []string{"first", "second"}, nil,
		millirank.Strict(), millirank.Budget(5*time.Second))
	if failed := (*millirank.RerankError)(nil); errors.As(err, &failed) {
		fmt.Println(failed.Reason, failed.Code)
	}
	// Output: not_ready Unavailable
}

// ExplainRoute says what would be decided, without the work.
func ExampleExplainRoute() {
	sidecar := milliranktest.NewSidecar(milliranktest.Ranked())
	defer sidecar.Close()
	client, err := millirank.New(sidecar.Target())
	if err != nil {
		panic(err)
	}
	defer func() { _ = client.Close() }()

	decision, err := millirank.ExplainRoute(context.Background(), client, "query", []string{"first", "second"}, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(decision.Strategy, decision.Reason)
	// Output: cross_encoder best_expected_gain
}
