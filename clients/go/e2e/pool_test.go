package e2e

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/millirank/millirank/clients/go/millirank"
)

// sameOrder is the variable that names a file of lines: addresses and the expected order, both separated by commas, the
// reranker, the query, then a document each. tests/ray writes it.
const sameOrder = "MILLIRANK_SAME_ORDER"

// A sidecar and a pool on Ray Serve are the same service: from either, this client gets the same order.
func TestSameOrderFromSidecarAndPool(t *testing.T) {
	file := os.Getenv(sameOrder)
	if file == "" {
		t.Skipf("SKIPPED: no pool to test against; set %s, or run: pytest tests/ray", sameOrder)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	for _, address := range strings.Split(lines[0], ",") {
		client, err := millirank.New(address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		ranking, err := millirank.Rerank(context.Background(), client, lines[3], lines[4:], nil,
			millirank.Budget(roomy), millirank.ForceReranker(lines[2]), millirank.BypassCache())
		if err != nil {
			t.Fatal(err)
		}
		if ranking.Outcome != millirank.OutcomeRanked {
			t.Fatalf("%s: %v %v", address, ranking.Outcome, ranking.Degradations)
		}
		order := make([]string, 0, len(lines))
		for _, ranked := range ranking.Results {
			order = append(order, strconv.Itoa(ranked.Index))
		}
		if want := strings.Split(lines[1], ","); !slices.Equal(order, want) {
			t.Errorf("%s: order %v, want %v", address, order, want)
		}
	}
}
