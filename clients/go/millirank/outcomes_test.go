package millirank_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/millirank/millirank/clients/go/millirank"
	"github.com/millirank/millirank/clients/go/millirank/milliranktest"
	pb "github.com/millirank/millirank/clients/go/millirankv1"
)

// Everything that the sidecar says about an answer is there, in durations and plain types.
func TestRankingCarriesDecisionTimingAndUsage(t *testing.T) {
	_, client := start(t, func(ctx context.Context, request *pb.RerankRequest) (*pb.RerankResponse, error) {
		response, err := milliranktest.Ranked()(ctx, request)
		response.Timing = &pb.Timing{Total: durationpb.New(12345678), Queue: durationpb.New(2 * time.Millisecond)}
		response.Usage = &pb.Usage{Pairs: 4, CachedPairs: 1, Tokens: 700, CostMicroUsd: 9}
		response.CacheStatus = pb.CacheStatus_CACHE_STATUS_SHARED
		response.Results[0].Truncated = true
		response.Decision.Spendable = durationpb.New(40 * time.Millisecond)
		response.Decision.Considered = []*pb.ConsideredArm{
			{
				Strategy: pb.Strategy_STRATEGY_LLM, Reranker: "gpt", RerankK: 50, ExpectedGain: 0.12, PredictedCostMicroUsd: 300,
				PredictedP95: durationpb.New(1900 * time.Millisecond), Verdict: pb.Verdict_VERDICT_OVER_BUDGET, Detail: "1.9 s",
			},
			{Reranker: "fake", RerankK: 25, Verdict: pb.Verdict_VERDICT_CHOSEN},
		}
		return response, err
	})

	ranking, err := millirank.Rerank(context.Background(), client, "query", texts, nil, millirank.Budget(roomy), millirank.RequestID("r-9"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "timing", *ranking.Timing, millirank.Timing{Total: 12345678, Queue: 2 * time.Millisecond})
	equal(t, "usage", *ranking.Usage, millirank.Usage{Pairs: 4, CachedPairs: 1, Tokens: 700, CostMicroUSD: 9})
	equal(t, "cache", ranking.CacheStatus, millirank.CacheShared)
	equal(t, "request id", ranking.RequestID, "r-9")
	equal(t, "truncated", ranking.Results[0].Truncated, true)
	equal(t, "spendable", ranking.Decision.Spendable, 40*time.Millisecond)
	equal(t, "arm", ranking.Decision.Considered[0], millirank.ConsideredArm{
		Strategy: millirank.StrategyLLM, Reranker: "gpt", RerankK: 50, PredictedP95: 1900 * time.Millisecond, ExpectedGain: 0.12,
		PredictedCostMicroUSD: 300, Verdict: millirank.VerdictOverBudget, Detail: "1.9 s",
	})
	equal(t, "chosen", ranking.Decision.Chosen().RerankK, 25)
	if ranking.Elapsed <= 0 || ranking.Elapsed > roomy {
		t.Errorf("elapsed is %v", ranking.Elapsed)
	}
}

// Where nothing was to be decided, no arm was chosen.
func TestNoArmChosen(t *testing.T) {
	if chosen := (&millirank.Decision{}).Chosen(); chosen != nil {
		t.Errorf("chosen is %v", chosen)
	}
}

// Every reason that a sidecar can give arrives as this package's constant.
func TestEveryReasonArrives(t *testing.T) {
	sidecar, client := start(t, milliranktest.Ranked())
	for _, reason := range []millirank.Reason{
		millirank.ReasonBudgetTooSmall, millirank.ReasonBudgetExhausted, millirank.ReasonOverloaded, millirank.ReasonNotReady,
		millirank.ReasonBackendError, millirank.ReasonBackendTimeout, millirank.ReasonCircuitOpen, millirank.ReasonBadOutput,
		millirank.ReasonIndexUnavailable, millirank.ReasonDraining, millirank.ReasonInternal,
	} {
		sidecar.Behave(milliranktest.FirstStage(reason))
		ranking, err := millirank.Rerank(context.Background(), client, "query", texts, nil, millirank.Budget(roomy))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "outcome", ranking.Outcome, millirank.OutcomeFirstStage)
		equal(t, "fallback", ranking.Fallback, false)
		equalSlices(t, "reasons", ranking.Reasons(), []millirank.Reason{reason})
	}
}

// ExplainRoute waits as long as it is told, and then there is nothing to fall back to.
func TestExplainTimesOut(t *testing.T) {
	_, client := start(t, milliranktest.Hanging())
	_, err := millirank.ExplainRoute(context.Background(), client, "query", texts, nil, millirank.ExplainTimeout(budget))
	failed, is := err.(*millirank.RerankError)
	if !is || failed.Reason != millirank.ReasonSidecarTimeout {
		t.Errorf("error is %v", err)
	}
}
