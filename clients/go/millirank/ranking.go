package millirank

import "time"

// Outcome is how much of the planned work is in an ordering.
type Outcome string

const (
	// OutcomeRanked: all of it. The plan may have been the first-stage order: then Decision.Strategy is StrategyNone.
	OutcomeRanked Outcome = "ranked"
	// OutcomePartial: the scored candidates come first, the rest follow in first-stage order.
	OutcomePartial Outcome = "partial"
	// OutcomeFirstStage: none of it. Ranking.Reasons says why.
	OutcomeFirstStage Outcome = "first_stage"
)

// Reason is why an ordering is less than planned.
type Reason string

// The sidecar's reasons.
const (
	ReasonBudgetTooSmall   Reason = "budget_too_small"
	ReasonBudgetExhausted  Reason = "budget_exhausted"
	ReasonOverloaded       Reason = "overloaded"
	ReasonNotReady         Reason = "not_ready"
	ReasonBackendError     Reason = "backend_error"
	ReasonBackendTimeout   Reason = "backend_timeout"
	ReasonCircuitOpen      Reason = "circuit_open"
	ReasonBadOutput        Reason = "bad_output"
	ReasonIndexUnavailable Reason = "index_unavailable"
	ReasonDraining         Reason = "draining"
	ReasonInternal         Reason = "internal"
)

// This client's reasons; of the sidecar's it also uses ReasonBudgetTooSmall and ReasonBudgetExhausted.
const (
	// ReasonSidecarTimeout: the sidecar did not answer within the budget.
	ReasonSidecarTimeout Reason = "sidecar_timeout"
	// ReasonSidecarUnavailable: the sidecar could not be reached, or the connection broke.
	ReasonSidecarUnavailable Reason = "sidecar_unavailable"
	// ReasonSidecarError: the sidecar answered with an error, or with an ordering that can't be used.
	ReasonSidecarError Reason = "sidecar_error"
)

// CacheStatus is whether the answer was computed for this request.
type CacheStatus string

// The cache statuses.
const (
	CacheUnspecified CacheStatus = "unspecified"
	CacheMiss        CacheStatus = "miss"
	CacheHit         CacheStatus = "hit"
	CacheShared      CacheStatus = "shared"
)

// Degradation is one cause of an answer that is less than planned.
type Degradation struct {
	Reason Reason
	// Detail is for a person; not to be parsed.
	Detail string
}

// Timing is where the time went, on the sidecar's clock.
type Timing struct{ Total, Route, Queue, Score time.Duration }

// Usage is what the sidecar computed.
type Usage struct {
	// Pairs of query and document that were scored, and those of them that needed no model run.
	Pairs, CachedPairs int
	Tokens             uint64
	// CostMicroUSD is the price in millionths of a US dollar.
	CostMicroUSD uint64
}

// Ranked is one candidate in its new place.
type Ranked[T any] struct {
	// Document is the value that the caller passed.
	Document T
	// Index is its position there, from 0: its first-stage rank.
	Index int
	// Score is what the scored candidates are ordered by, comparable only within one ranking; 0 unless Scored.
	Score  float64
	Scored bool
	// RawScore is the model's own; 0 unless HasRawScore.
	RawScore    float64
	HasRawScore bool
	// Truncated: only the beginning of its text was read.
	Truncated bool
}

// Ranking is the candidates, best first, and how that came about.
type Ranking[T any] struct {
	Results      []Ranked[T]
	Outcome      Outcome
	Degradations []Degradation
	// Fallback: this client made the ordering because no usable answer came. Decision, Timing and Usage are nil then.
	Fallback  bool
	RequestID string
	// Elapsed is what the caller waited, from the call to this value.
	Elapsed     time.Duration
	Decision    *Decision
	Timing      *Timing
	Usage       *Usage
	CacheStatus CacheStatus
}

// Documents are the values that the caller passed, best first.
func (r *Ranking[T]) Documents() []T {
	documents := make([]T, len(r.Results))
	for i := range r.Results {
		documents[i] = r.Results[i].Document
	}
	return documents
}

// Reasons are why this is less than planned; empty when it is not.
func (r *Ranking[T]) Reasons() []Reason { return reasonsOf(r.Degradations) }

func reasonsOf(degradations []Degradation) []Reason {
	reasons := make([]Reason, len(degradations))
	for i, degradation := range degradations {
		reasons[i] = degradation.Reason
	}
	return reasons
}
