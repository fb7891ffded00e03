package millirank

import (
	"context"
	"fmt"
)

// Rerank orders documents, the first stage's best first, for query within a [Budget].
//
// describe says what the sidecar gets to see of a document; it is called once for each, and may be nil where T is
// [Document] or string. The ranking returns the values that were passed.
//
// When the budget ends without a usable answer the first-stage order is returned, [OutcomeFirstStage], with the reason
// and no error. An error is the caller's doing: [*InvalidRequestError], [*RerankerNotFoundError], [*RerankerOffError],
// [ErrClosed], a cancelled context, and for a [Strict] call [*RerankError]. A context deadline that is earlier than the
// budget is the budget.
func Rerank[T any](
	ctx context.Context, client *Client, query string, documents []T, describe func(T) Document, options ...CallOption,
) (*Ranking[T], error) {
	c, _, err := newCall(ctx, client, query, documents, describe, options)
	if err != nil {
		return nil, err
	}
	client.stats.started()
	ctx, span := client.tracing.start(ctx, "Rerank", c)
	defer span.End()
	ranking, failed, err := rank(ctx, client, c, documents)
	if failed != nil {
		describeFailure(span, failed)
		if c.strict {
			err = failed.asError()
		} else {
			ranking = fallBack(c, documents, failed)
		}
	}
	switch {
	case err != nil:
		client.stats.raised()
		describeError(span, err)
		return nil, err
	case ranking.Fallback:
		client.stats.fellBack(failed.reason)
	default:
		client.stats.answered(ranking.Outcome)
	}
	describeRanking(span, ranking)
	return ranking, nil
}

// rank is the sidecar's ranking, a failure to fall back from, or the caller's mistake.
func rank[T any](ctx context.Context, client *Client, c *call, documents []T) (*Ranking[T], *failure, error) {
	if err := ctx.Err(); err == context.Canceled {
		return nil, nil, err
	}
	if len(documents) == 0 {
		return &Ranking[T]{Outcome: OutcomeRanked, RequestID: c.request.RequestId, Elapsed: c.elapsed()}, nil, nil
	}
	if failed := c.noTimeToAsk(); failed != nil {
		return nil, failed, nil
	}
	response, failed, err := client.ask(ctx, c)
	if failed != nil || err != nil {
		return nil, failed, err
	}
	ranking, err := rankingFrom(response, documents, c)
	if err != nil {
		return nil, &failure{reason: ReasonSidecarError, detail: fmt.Sprintf("the answer can't be used: %v", err)}, nil
	}
	return ranking, nil, nil
}

func fallBack[T any](c *call, documents []T, failed *failure) *Ranking[T] {
	return &Ranking[T]{
		Results:      firstStage(documents, c.kept()),
		Outcome:      OutcomeFirstStage,
		Degradations: []Degradation{{Reason: failed.reason, Detail: failed.detail}},
		Fallback:     true,
		RequestID:    c.request.RequestId,
		CacheStatus:  CacheUnspecified,
		Elapsed:      c.elapsed(),
	}
}

// ExplainRoute says what the sidecar would decide for the same [Rerank] now, without the work. It waits up to
// [ExplainTimeout]. There is nothing to fall back to: the errors are those of Rerank, and [*RerankError] where no answer
// came.
func ExplainRoute[T any](
	ctx context.Context, client *Client, query string, documents []T, describe func(T) Document, options ...CallOption,
) (*Decision, error) {
	// Not the context's deadline: that limits this call, not the one that is asked about.
	c, o, err := newCall(context.WithoutCancel(ctx), client, query, documents, describe, options)
	if err != nil {
		return nil, err
	}
	ctx, span := client.tracing.start(ctx, "ExplainRoute", c)
	defer span.End()
	decision, err := explain(ctx, client, c, o)
	if err != nil {
		describeError(span, err)
	}
	return decision, err
}

func explain(ctx context.Context, client *Client, c *call, o *callOptions) (*Decision, error) {
	if err := checkBudget(o.explainWaits, "explain_timeout"); err != nil {
		return nil, err
	}
	rpc, cancel := context.WithTimeout(ctx, o.explainWaits)
	defer cancel()
	response, err := client.service.ExplainRoute(rpc, c.explainRequest())
	if err == nil {
		return decisionFrom(response.GetDecision()), nil
	}
	if cancelled := ctx.Err(); cancelled == context.Canceled {
		return nil, cancelled
	}
	failed, err := readStatus(err)
	if failed != nil {
		return nil, failed.asError()
	}
	return nil, err
}
