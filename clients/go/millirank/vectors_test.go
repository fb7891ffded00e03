package millirank_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/millirank/millirank/clients/go/millirank"
	"github.com/millirank/millirank/clients/go/millirank/milliranktest"
	pb "github.com/millirank/millirank/clients/go/millirankv1"
)

// A bound on time that is missed is tried again: a stall of the machine passes, a client that waits for the wrong thing
// does not.
const vectorRuns = 3

// TestVectors: every client does what tests/vectors says; each vector states its own contract.
func TestVectors(t *testing.T) {
	files, err := filepath.Glob("../../../tests/vectors/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test vectors found: %v", err)
	}
	for _, file := range files {
		for _, v := range readVectors(t, file) {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".json")+"/"+v.Name, func(t *testing.T) {
				t.Parallel()
				var took time.Duration
				for range vectorRuns {
					took = v.run(t)
					if v.Expect.Took == nil || v.Expect.Took.holds(took) {
						return
					}
				}
				t.Errorf("took %v, not %v ms: %s", took, *v.Expect.Took, v.Contract)
			})
		}
	}
}

func readVectors(t *testing.T, file string) []*vector {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var content struct {
		Vectors []*vector `json:"vectors"`
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&content); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return content.Vectors
}

// run plays the vector once, checks everything but the time, and returns that.
func (v *vector) run(t *testing.T) time.Duration {
	t.Helper()
	target, sidecar := v.play(t)
	client, err := millirank.New(target, v.Client.options()...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if v.startsConnected() {
		waitUntilReady(t, client)
	}
	ctx := context.Background()
	documents := v.Request.documents()
	started := time.Now()
	var took time.Duration
	if v.Call == "explain" {
		decision, err := millirank.ExplainRoute(ctx, client, v.Request.Query, documents, describe, v.Request.options()...)
		took = time.Since(started)
		v.checkError(t, err)
		v.checkDecision(t, decision)
	} else {
		ranking, err := millirank.Rerank(ctx, client, v.Request.Query, documents, describe, v.Request.options()...)
		took = time.Since(started)
		v.checkError(t, err)
		v.checkRanking(t, ranking, documents)
	}
	time.Sleep(v.Expect.Settle.duration())
	v.checkStats(t, client.Stats())
	v.checkSent(t, sidecar.Received())
	return took
}

func (v *vector) checkError(t *testing.T, err error) {
	t.Helper()
	wanted := v.Expect.Error
	if wanted == nil {
		if err != nil {
			t.Fatalf("error: %v", err)
		}
		return
	}
	var (
		invalid  *millirank.InvalidRequestError
		notFound *millirank.RerankerNotFoundError
		off      *millirank.RerankerOffError
		failed   *millirank.RerankError
	)
	switch {
	case errors.As(err, &invalid):
		equal(t, "kind", "INVALID_REQUEST", wanted.Kind)
		equal(t, "field", invalid.Field, wanted.Field)
	case errors.As(err, &notFound):
		equal(t, "kind", "RERANKER_NOT_FOUND", wanted.Kind)
	case errors.As(err, &off):
		equal(t, "kind", "RERANKER_OFF", wanted.Kind)
	case errors.As(err, &failed):
		equal(t, "kind", "RERANK_FAILED", wanted.Kind)
		equal(t, "reason", upper(failed.Reason), wanted.Reason)
		equal(t, "code", failed.Code, codeNamed(wanted.Code))
		equal(t, "retry after", failed.RetryAfter, wanted.RetryAfter.duration())
	default:
		t.Fatalf("error is %v, not %s", err, wanted.Kind)
	}
}

// codeNamed is the status of this name; OK for "", which says that none came.
func codeNamed(name string) codes.Code {
	code := codes.OK
	if name != "" {
		if err := code.UnmarshalJSON([]byte(`"` + name + `"`)); err != nil {
			panic(err)
		}
	}
	return code
}

func (v *vector) checkRanking(t *testing.T, ranking *millirank.Ranking[*candidate], documents []*candidate) {
	t.Helper()
	expect := v.Expect
	if expect.Error != nil {
		equal(t, "ranking beside an error", ranking == nil, true)
		return
	}
	equal(t, "outcome", upper(ranking.Outcome), expect.Outcome)
	if expect.Fallback != nil {
		equal(t, "fallback", ranking.Fallback, *expect.Fallback)
	}
	if expect.Reasons != nil {
		var reasons []string
		for _, reason := range ranking.Reasons() {
			reasons = append(reasons, upper(reason))
		}
		equalSlices(t, "reasons", reasons, expect.Reasons)
	}
	var order []int
	for _, entry := range ranking.Results {
		order = append(order, entry.Index)
		if entry.Document != documents[entry.Index] {
			t.Errorf("the document at index %d is not the one that was passed", entry.Index)
		}
	}
	equalSlices(t, "order", order, expect.order())
	for i, score := range expect.Scores {
		equal(t, "scored", ranking.Results[i].Scored, score != nil)
		equal(t, "score", ranking.Results[i].Score, value(score))
	}
	for i, raw := range expect.RawScores {
		equal(t, "has raw score", ranking.Results[i].HasRawScore, raw != nil)
		equal(t, "raw score", ranking.Results[i].RawScore, value(raw))
	}
	if expect.RequestID != "" {
		equal(t, "request id", ranking.RequestID, expect.RequestID)
	}
	equal(t, "a fallback has no decision", ranking.Decision == nil, ranking.Fallback || len(documents) == 0)
	v.checkDecision(t, ranking.Decision)
}

func (v *vector) checkDecision(t *testing.T, decision *millirank.Decision) {
	t.Helper()
	if v.Expect.Strategy == "" {
		return
	}
	equal(t, "strategy", upper(decision.Strategy), v.Expect.Strategy)
	equal(t, "decision reason", upper(decision.Reason), v.Expect.DecisionReason)
}

func (v *vector) checkStats(t *testing.T, stats millirank.Stats) {
	t.Helper()
	if v.Expect.Stats == nil {
		return
	}
	fallbacks := map[string]uint64{}
	for reason, count := range stats.Fallbacks {
		fallbacks[upper(reason)] = count
	}
	found, err := json.Marshal(counters{
		Calls: stats.Calls, Ranked: stats.Ranked, Partial: stats.Partial, FirstStage: stats.FirstStage,
		Raised: stats.Raised, Fallbacks: fallbacks, Late: stats.Late,
	})
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := json.Marshal(v.Expect.Stats)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "stats", string(found), string(wanted))
}

func (v *vector) checkSent(t *testing.T, received []milliranktest.Received) {
	t.Helper()
	expect := v.Expect
	if expect.Requests != nil {
		equal(t, "requests", len(received), *expect.Requests)
	}
	if expect.Sent == nil && expect.Latency == nil && expect.Deadline == nil {
		return
	}
	last := received[len(received)-1]
	if latency := last.Request.GetBudget().GetLatency().AsDuration(); expect.Latency != nil && !expect.Latency.holds(latency) {
		t.Errorf("budget.latency is %v, not %v ms", latency, *expect.Latency)
	}
	if expect.Deadline != nil && !expect.Deadline.holds(last.Left) {
		t.Errorf("%v were left of the deadline, not %v ms", last.Left, *expect.Deadline)
	}
	if expect.Sent != nil {
		wanted := &pb.RerankRequest{}
		if err := protojson.Unmarshal(expect.Sent, wanted); err != nil {
			t.Fatal(err)
		}
		sent := proto.CloneOf(last.Request)
		sent.Budget.Latency = nil
		if !proto.Equal(sent, wanted) {
			t.Errorf("sent %v, not %v", sent, wanted)
		}
	}
}

func equal[V comparable](t *testing.T, what string, found, wanted V) {
	t.Helper()
	if found != wanted {
		t.Errorf("%s is %v, not %v", what, found, wanted)
	}
}

func equalSlices[V comparable](t *testing.T, what string, found, wanted []V) {
	t.Helper()
	if !slices.Equal(found, wanted) {
		t.Errorf("%s is %v, not %v", what, found, wanted)
	}
}

func upper[S ~string](name S) string { return strings.ToUpper(string(name)) }

func value(number *float64) float64 {
	if number == nil {
		return 0
	}
	return *number
}
