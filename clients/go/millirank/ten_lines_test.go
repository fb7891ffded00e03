package millirank_test

import (
	"context"
	"log"
	"testing"
	"time"

	"github.com/millirank/millirank/clients/go/millirank"
	"github.com/millirank/millirank/clients/go/millirank/milliranktest"
)

// Hit is a search service's own.
type Hit struct {
	URL, Body string
	Score     float64
}

// What clients/README.md shows, line by line (tests/clients/test_ten_lines.py compares).
func newTenLinesClient() (*millirank.Client, error) {
	client, err := millirank.New("127.0.0.1:50051") // once; or "unix:/run/millirank/millirank.sock"
	return client, err
}

func tenLines(ctx context.Context, client *millirank.Client, query string, hits []Hit) ([]Hit, error) {
	describe := func(hit Hit) millirank.Document {
		return millirank.Document{ID: hit.URL, Text: hit.Body, Signals: map[string]float64{"bm25": hit.Score}}
	}
	ranking, err := millirank.Rerank(ctx, client, query, hits, describe, millirank.Budget(50*time.Millisecond), millirank.TopN(10))
	if err != nil {
		return nil, err // the request is wrong, or ctx was cancelled; never that the sidecar is slow or gone
	}
	if ranking.Outcome != millirank.OutcomeRanked {
		log.Print("less than planned: ", ranking.Reasons())
	}
	return ranking.Documents(), nil
}

// A sidecar's order reaches the service; where it is not there, the service's own order stays.
func TestTenLines(t *testing.T) {
	unused, err := newTenLinesClient()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unused.Close() }()
	hits := []Hit{{URL: "a", Body: "alpha", Score: 2}, {URL: "b", Body: "beta", Score: 1}}
	sidecar, client := start(t, milliranktest.Ranked())
	var found []Hit
	for range 3 { // 50 ms may pass on a machine that others load
		if found, err = tenLines(context.Background(), client, "query", hits); err != nil {
			t.Fatal(err)
		}
		if found[0] == hits[1] {
			break
		}
	}
	equalSlices(t, "ranked", found, []Hit{hits[1], hits[0]})
	sidecar.Stop()
	if found, err = tenLines(context.Background(), client, "query", hits); err != nil {
		t.Fatal(err)
	}
	equalSlices(t, "without a sidecar", found, hits)
}
