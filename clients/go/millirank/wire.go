package millirank

import (
	"fmt"
	"strings"
	"time"

	pb "github.com/millirank/millirank/clients/go/millirankv1"
)

// rankingFrom is the ranking in response over the documents that were sent, or what makes it unusable: results that are
// no prefix of a permutation, a score that is not finite, an unknown completeness.
func rankingFrom[T any](response *pb.RerankResponse, documents []T, c *call) (*Ranking[T], error) {
	outcome, err := outcomeFrom(response.Completeness)
	if err != nil {
		return nil, err
	}
	results, err := resultsFrom(response.Results, documents, c)
	if err != nil {
		return nil, err
	}
	return &Ranking[T]{
		Results:      results,
		Outcome:      outcome,
		Degradations: degradationsFrom(response.Degradations),
		RequestID:    response.RequestId,
		Decision:     decisionFrom(response.Decision),
		Timing: &Timing{
			Total: response.GetTiming().GetTotal().AsDuration(),
			Route: response.GetTiming().GetRoute().AsDuration(),
			Queue: response.GetTiming().GetQueue().AsDuration(),
			Score: response.GetTiming().GetScore().AsDuration(),
		},
		Usage: &Usage{
			Pairs:        int(response.GetUsage().GetPairs()),
			CachedPairs:  int(response.GetUsage().GetCachedPairs()),
			Tokens:       response.GetUsage().GetTokens(),
			CostMicroUSD: response.GetUsage().GetCostMicroUsd(),
		},
		CacheStatus: CacheStatus(enumName(pb.CacheStatus_name, "CACHE_STATUS_", response.CacheStatus)),
		Elapsed:     c.elapsed(),
	}, nil
}

func outcomeFrom(completeness pb.Completeness) (Outcome, error) {
	switch completeness {
	case pb.Completeness_COMPLETENESS_FULL:
		return OutcomeRanked, nil
	case pb.Completeness_COMPLETENESS_PARTIAL:
		return OutcomePartial, nil
	case pb.Completeness_COMPLETENESS_FIRST_STAGE_ONLY:
		return OutcomeFirstStage, nil
	}
	return "", fmt.Errorf("completeness %d is not known to this client", completeness)
}

func resultsFrom[T any](results []*pb.Result, documents []T, c *call) ([]Ranked[T], error) {
	expected := c.kept()
	if len(results) > expected || (len(results) < expected && !c.mayOmit) {
		return nil, fmt.Errorf("%d results for %d expected ones", len(results), expected)
	}
	seen := make([]bool, len(documents))
	ranked := make([]Ranked[T], len(results))
	for i, result := range results {
		index := int(result.Index)
		if index >= len(documents) {
			return nil, fmt.Errorf("result index %d for %d documents", index, len(documents))
		}
		if seen[index] {
			return nil, fmt.Errorf("result index %d came twice", index)
		}
		seen[index] = true
		if !finite(result.GetScore()) || !finite(result.GetRawScore()) {
			return nil, fmt.Errorf("the score of index %d is not finite", index)
		}
		ranked[i] = Ranked[T]{
			Document:    documents[index],
			Index:       index,
			Score:       result.GetScore(),
			Scored:      result.Score != nil,
			RawScore:    result.GetRawScore(),
			HasRawScore: result.RawScore != nil,
			Truncated:   result.Truncated,
		}
	}
	return ranked, nil
}

// firstStage is the first kept candidates as they came, unscored.
func firstStage[T any](documents []T, kept int) []Ranked[T] {
	ranked := make([]Ranked[T], kept)
	for i := range ranked {
		ranked[i] = Ranked[T]{Document: documents[i], Index: i}
	}
	return ranked
}

func degradationsFrom(messages []*pb.Degradation) []Degradation {
	degradations := make([]Degradation, len(messages))
	for i, message := range messages {
		degradations[i] = Degradation{Reason: reasonFrom(message.Reason), Detail: message.Detail}
	}
	return degradations
}

// reasonFrom treats unspecified and unknown reasons like INTERNAL, as the contract says.
func reasonFrom(number pb.DegradationReason) Reason {
	name := enumName(pb.DegradationReason_name, "DEGRADATION_REASON_", number)
	if name == unspecified {
		return ReasonInternal
	}
	return Reason(name)
}

func decisionFrom(message *pb.Decision) *Decision {
	decision := &Decision{
		ID:              message.GetId(),
		Strategy:        Strategy(enumName(pb.Strategy_name, "STRATEGY_", message.GetStrategy())),
		Reranker:        message.GetReranker(),
		ModelRevision:   message.GetModelRevision(),
		ProfileCorpus:   message.GetProfileCorpus(),
		ProfileRevision: message.GetProfileRevision(),
		PlannedK:        int(message.GetPlannedK()),
		ScoredK:         int(message.GetScoredK()),
		Reason:          DecisionReason(enumName(pb.DecisionReason_name, "DECISION_REASON_", message.GetReason())),
		Mode:            Mode(enumName(pb.Mode_name, "MODE_", message.GetMode())),
		Spendable:       message.GetSpendable().AsDuration(),
	}
	for _, arm := range message.GetConsidered() {
		decision.Considered = append(decision.Considered, ConsideredArm{
			Strategy:              Strategy(enumName(pb.Strategy_name, "STRATEGY_", arm.Strategy)),
			Reranker:              arm.Reranker,
			RerankK:               int(arm.RerankK),
			PredictedP50:          arm.PredictedP50.AsDuration(),
			PredictedP95:          arm.PredictedP95.AsDuration(),
			ExpectedGain:          arm.ExpectedGain,
			PredictedCostMicroUSD: arm.PredictedCostMicroUsd,
			Verdict:               Verdict(enumName(pb.Verdict_name, "VERDICT_", arm.Verdict)),
			Detail:                arm.Detail,
		})
	}
	return decision
}

const unspecified = "unspecified"

// enumName is a generated enum's value as this package's constants spell it; "unspecified" for one of a newer sidecar.
func enumName[E ~int32](names map[int32]string, prefix string, value E) string {
	name, known := names[int32(value)]
	if !known {
		return unspecified
	}
	return strings.ToLower(strings.TrimPrefix(name, prefix))
}

func milliseconds(duration time.Duration) float64 {
	return float64(duration) / float64(time.Millisecond)
}
