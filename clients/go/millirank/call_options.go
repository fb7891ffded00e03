package millirank

import "time"

// CallOption changes one call of [Rerank] or [ExplainRoute]. Values are checked by the call.
type CallOption func(*callOptions)

// callOptions is everything about a request but the query and the documents.
type callOptions struct {
	budget       time.Duration
	corpus       string
	topN         int
	strategy     Strategy
	reranker     string
	allowed      []Strategy
	rerankK      int
	instruction  string
	minScore     *float64
	maxCost      *uint64
	tenant       string
	requestID    string
	bypassCache  bool
	strict       bool
	explainWaits time.Duration
}

const (
	defaultBudget       = 100 * time.Millisecond
	defaultExplainWaits = time.Second
)

func newCallOptions(options []CallOption) callOptions {
	chosen := callOptions{budget: defaultBudget, strategy: StrategyAuto, explainWaits: defaultExplainWaits}
	for _, option := range options {
		option(&chosen)
	}
	return chosen
}

// Budget is what the caller can wait, from 0 to an hour; 100 ms without this option. An earlier deadline of the context
// takes its place.
func Budget(budget time.Duration) CallOption { return func(o *callOptions) { o.budget = budget } }

// Corpus selects the calibrated profile; at most 128 characters.
func Corpus(corpus string) CallOption { return func(o *callOptions) { o.corpus = corpus } }

// TopN is how many results to return; 0, and any number beyond the list, returns all.
func TopN(n int) CallOption { return func(o *callOptions) { o.topN = n } }

// ForceStrategy takes the choice of a strategy from the router.
func ForceStrategy(strategy Strategy) CallOption {
	return func(o *callOptions) { o.strategy = strategy }
}

// ForceReranker takes the choice of a reranker from the router, by its configured name.
func ForceReranker(name string) CallOption { return func(o *callOptions) { o.reranker = name } }

// Allowed are the only strategies that the router may choose, besides StrategyNone.
func Allowed(strategies ...Strategy) CallOption {
	return func(o *callOptions) { o.allowed = strategies }
}

// RerankK forces how many candidates are scored, from the top; 0 lets the router choose.
func RerankK(k int) CallOption { return func(o *callOptions) { o.rerankK = k } }

// Instruction is what the user wants beyond relevance; only LLM rerankers can follow it.
func Instruction(text string) CallOption { return func(o *callOptions) { o.instruction = text } }

// MinScore leaves out scored documents whose Ranked.RawScore is lower. The scale is the model's own.
func MinScore(score float64) CallOption { return func(o *callOptions) { o.minScore = &score } }

// MaxCostMicroUSD limits the price, in millionths of a US dollar; 0 allows nothing that costs money.
func MaxCostMicroUSD(limit uint64) CallOption { return func(o *callOptions) { o.maxCost = &limit } }

// Tenant separates cached answers of different customers; at most 128 characters.
func Tenant(tenant string) CallOption { return func(o *callOptions) { o.tenant = tenant } }

// RequestID comes back with the ranking, and stands in the sidecar's logs and traces; at most 128 characters.
func RequestID(id string) CallOption { return func(o *callOptions) { o.requestID = id } }

// BypassCache computes the answer anew, and does not keep it.
func BypassCache() CallOption { return func(o *callOptions) { o.bypassCache = true } }

// Strict wants a [RerankError] in place of first-stage order, also for an answer that is less than planned.
func Strict() CallOption { return func(o *callOptions) { o.strict = true } }

// ExplainTimeout is how long [ExplainRoute] waits, 1 s without this option. [Rerank] does not use it.
func ExplainTimeout(timeout time.Duration) CallOption {
	return func(o *callOptions) { o.explainWaits = timeout }
}
