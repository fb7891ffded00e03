package main

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/millirank/millirank/clients/go/millirank"
)

// candidates are how many pages the first stage hands on.
const candidates = 50

// Service answers queries: Bleve finds, Millirank puts in order.
type Service struct {
	index    *Index
	reranker *millirank.Client
	tracer   trace.Tracer
	// budget is what a user's query can wait for a better order.
	budget time.Duration
}

// Answer is what came of one query.
type Answer struct {
	// Found is the first stage's order, Ranking the final one.
	Found   []Hit
	Ranking *millirank.Ranking[Hit]
}

// Search is never slower than the first stage plus the budget, and never fails because of the sidecar.
func (s *Service) Search(ctx context.Context, query string) (*Answer, error) {
	ctx, span := s.tracer.Start(ctx, "search")
	defer span.End()
	found, err := s.index.Search(query, candidates)
	if err != nil {
		return nil, err
	}
	ranking, err := millirank.Rerank(ctx, s.reranker, query, found, describe, millirank.Budget(s.budget))
	if err != nil {
		return nil, err
	}
	return &Answer{Found: found, Ranking: ranking}, nil
}

func describe(hit Hit) millirank.Document {
	return millirank.Document{ID: hit.ID, Text: hit.Text, Signals: map[string]float64{"bm25": hit.BM25}}
}
