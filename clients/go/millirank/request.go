package millirank

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	pb "github.com/millirank/millirank/clients/go/millirankv1"
)

// What the contract fixes. Limits that an operator can change are left to the sidecar.
const (
	maxBudget  = time.Hour
	maxName    = 128 // characters of corpus, tenant and request_id
	maxID      = 512 // characters of a document's id
	maxSignals = 16
)

// newRequest is the message for these arguments, all but its latency budget, or what is wrong with them.
func newRequest[T any](query string, documents []T, describe func(T) Document, o *callOptions) (*pb.RerankRequest, error) {
	if err := checkRequest(query, o); err != nil {
		return nil, err
	}
	routing, err := newRouting(o)
	if err != nil {
		return nil, err
	}
	request := &pb.RerankRequest{
		RequestId:   o.requestID,
		Corpus:      o.corpus,
		Query:       query,
		Documents:   make([]*pb.Document, len(documents)),
		TopN:        uint32(o.topN),
		Budget:      &pb.Budget{MaxCostMicroUsd: o.maxCost},
		Routing:     routing,
		Instruction: o.instruction,
		MinScore:    o.minScore,
		Tenant:      o.tenant,
	}
	if o.bypassCache {
		request.CacheControl = pb.CacheControl_CACHE_CONTROL_BYPASS
	}
	if o.strict {
		request.Budget.OverrunPolicy = pb.OverrunPolicy_OVERRUN_POLICY_FAIL
	}
	if describe == nil {
		if describe, err = describeItself[T](); err != nil {
			return nil, err
		}
	}
	// One allocation for all messages, not one each.
	messages := make([]pb.Document, len(documents))
	for i, document := range documents {
		described := describe(document)
		if err := checkDocument(&described, i); err != nil {
			return nil, err
		}
		message := &messages[i]
		message.Id, message.Text = described.ID, described.Text
		// The caller may change its map while a call that it no longer waits for is still being encoded.
		message.Signals = maps.Clone(described.Signals)
		if described.Index != nil {
			message.IndexedRef = &pb.IndexedRef{Collection: described.Index.Collection, Id: described.Index.ID}
		}
		request.Documents[i] = message
	}
	return request, nil
}

// describeItself reads documents that need no describing: Document and string.
func describeItself[T any]() (func(T) Document, error) {
	var zero T
	switch any(zero).(type) {
	case Document:
		return func(document T) Document { return any(document).(Document) }, nil
	case string:
		return func(document T) Document { return Document{Text: any(document).(string)} }, nil
	}
	return nil, invalid("documents", "are %T; pass a func that describes one, or millirank.Document or string values", zero)
}

func newRouting(o *callOptions) (*pb.Routing, error) {
	strategy, err := strategyNumber(o.strategy, "strategy")
	if err != nil {
		return nil, err
	}
	routing := &pb.Routing{
		Strategy: strategy,
		Reranker: o.reranker,
		RerankK:  uint32(o.rerankK),
	}
	for i, each := range o.allowed {
		number, err := strategyNumber(each, fmt.Sprintf("allowed[%d]", i))
		if err != nil {
			return nil, err
		}
		routing.Allowed = append(routing.Allowed, number)
	}
	return routing, nil
}

func strategyNumber(strategy Strategy, field string) (pb.Strategy, error) {
	number, known := pb.Strategy_value["STRATEGY_"+strings.ToUpper(string(strategy))]
	if !known {
		return 0, invalid(field, "is %q; choose one of the Strategy constants", strategy)
	}
	return pb.Strategy(number), nil
}

func checkRequest(query string, o *callOptions) error {
	if strings.TrimSpace(query) == "" {
		return invalid("query", "is blank; pass the user's query")
	}
	if err := checkBudget(o.budget, "budget_ms"); err != nil {
		return err
	}
	for _, text := range []struct {
		field, value string
		limit        int
	}{
		{"query", query, math.MaxInt},
		{"instruction", o.instruction, math.MaxInt},
		{"reranker", o.reranker, math.MaxInt},
		{"corpus", o.corpus, maxName},
		{"tenant", o.tenant, maxName},
		{"request_id", o.requestID, maxName},
	} {
		if err := checkText(text.value, text.limit); err != "" {
			return invalid(text.field, "%s", err)
		}
	}
	for _, count := range []struct {
		field string
		value int
	}{{"top_n", o.topN}, {"rerank_k", o.rerankK}} {
		if count.value < 0 || int64(count.value) > math.MaxUint32 {
			return invalid(count.field, "is %d; it has to be from 0 to 2**32 - 1", count.value)
		}
	}
	if o.minScore != nil && !finite(*o.minScore) {
		return invalid("min_score", "is %v; it has to be finite", *o.minScore)
	}
	return nil
}

func checkBudget(budget time.Duration, field string) error {
	if budget < 0 || budget > maxBudget {
		return invalid(field, "is %v; pass a duration from 0 to %v", budget, maxBudget)
	}
	return nil
}

// checkDocument names the field by the document's position; the path is only made where something is wrong.
func checkDocument(document *Document, position int) error {
	where := func(part string) string { return fmt.Sprintf("documents[%d].%s", position, part) }
	if err := checkText(document.Text, math.MaxInt); err != "" {
		return invalid(where("text"), "%s", err)
	}
	if err := checkText(document.ID, maxID); err != "" {
		return invalid(where("id"), "%s", err)
	}
	if len(document.Signals) > maxSignals {
		return invalid(where("signals"), "has %d entries; at most %d are allowed", len(document.Signals), maxSignals)
	}
	for name, value := range document.Signals {
		if !utf8.ValidString(name) {
			return invalid(where("signals"), "has a name that is not UTF-8")
		}
		if !finite(value) {
			return invalid(where("signals['"+name+"']"), "is %v; it has to be finite", value)
		}
	}
	if index := document.Index; index != nil {
		for _, part := range []struct{ name, value string }{{"collection", index.Collection}, {"id", index.ID}} {
			if part.value == "" {
				return invalid(where("indexed_ref."+part.name), "is empty; say where the document lies")
			}
			if err := checkText(part.value, maxID); err != "" {
				return invalid(where("indexed_ref."+part.name), "%s", err)
			}
		}
	}
	return nil
}

// checkText says what is wrong with a text, or "".
func checkText(text string, limit int) string {
	if !utf8.ValidString(text) {
		return "is not UTF-8; clean it with strings.ToValidUTF8"
	}
	if len(text) > limit {
		if count := utf8.RuneCountInString(text); count > limit {
			return fmt.Sprintf("has %d characters; at most %d are allowed", count, limit)
		}
	}
	return ""
}

func finite(value float64) bool { return !math.IsNaN(value) && !math.IsInf(value, 0) }
