package millirank

import "time"

// Strategy is how candidates are reordered.
type Strategy string

// The strategies. StrategyUnspecified in an answer is one that this client version does not know.
const (
	StrategyUnspecified     Strategy = "unspecified"
	StrategyAuto            Strategy = "auto"
	StrategyNone            Strategy = "none"
	StrategySignals         Strategy = "signals"
	StrategyCrossEncoder    Strategy = "cross_encoder"
	StrategyLateInteraction Strategy = "late_interaction"
	StrategyLLM             Strategy = "llm"
	StrategyCascade         Strategy = "cascade"
)

// DecisionReason is why the router decided as it did.
type DecisionReason string

// The reasons of a decision. DecisionUnspecified is one that this client version does not know.
const (
	DecisionUnspecified      DecisionReason = "unspecified"
	DecisionBestExpectedGain DecisionReason = "best_expected_gain"
	DecisionForced           DecisionReason = "forced"
	DecisionBudgetTooSmall   DecisionReason = "budget_too_small"
	DecisionNoGain           DecisionReason = "no_gain"
	DecisionNotReady         DecisionReason = "not_ready"
	DecisionNothingToDo      DecisionReason = "nothing_to_do"
	DecisionModeOff          DecisionReason = "mode_off"
)

// Verdict is what the router concluded about one arm.
type Verdict string

// The verdicts. VerdictUnspecified is one that this client version does not know.
const (
	VerdictUnspecified     Verdict = "unspecified"
	VerdictChosen          Verdict = "chosen"
	VerdictLowerGain       Verdict = "lower_gain"
	VerdictNotWorthItsTime Verdict = "not_worth_its_time"
	VerdictOverBudget      Verdict = "over_budget"
	VerdictOverCost        Verdict = "over_cost"
	VerdictNoGain          Verdict = "no_gain"
	VerdictNotAllowed      Verdict = "not_allowed"
	VerdictNotReady        Verdict = "not_ready"
	VerdictOff             Verdict = "off"
	VerdictCircuitOpen     Verdict = "circuit_open"
	VerdictCannotScore     Verdict = "cannot_score"
)

// Mode is what the sidecar as a whole was allowed to do.
type Mode string

// The modes. ModeUnspecified is one that this client version does not know.
const (
	ModeUnspecified Mode = "unspecified"
	ModeOff         Mode = "off"
	ModeObserve     Mode = "observe"
	ModeOn          Mode = "on"
)

// ConsideredArm is one thing that the router could have done: a reranker at a given number of candidates.
type ConsideredArm struct {
	Strategy Strategy
	Reranker string
	RerankK  int
	// PredictedP50 and PredictedP95 include the queue.
	PredictedP50, PredictedP95 time.Duration
	// ExpectedGain is the expected change of nDCG@10 against the first-stage order.
	ExpectedGain          float64
	PredictedCostMicroUSD uint64
	Verdict               Verdict
	// Detail is the verdict in words, for a person; not to be parsed.
	Detail string
}

// Decision is what the router decided for one request, and why.
type Decision struct {
	ID            string
	Strategy      Strategy
	Reranker      string
	ModelRevision string
	// ProfileCorpus is "default" where the request's corpus has no calibrated profile.
	ProfileCorpus   string
	ProfileRevision string
	// PlannedK and ScoredK are how many candidates were to be scored, and were.
	PlannedK, ScoredK int
	Reason            DecisionReason
	Considered        []ConsideredArm
	Mode              Mode
	// Spendable is what the router could spend after the sidecar's own reserve.
	Spendable time.Duration
}

// Chosen is the considered arm that was taken; nil where nothing was to be decided.
func (d *Decision) Chosen() *ConsideredArm {
	for i := range d.Considered {
		if d.Considered[i].Verdict == VerdictChosen {
			return &d.Considered[i]
		}
	}
	return nil
}
