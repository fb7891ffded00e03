package millirank

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

const instrumentation = "github.com/millirank/millirank/clients/go/millirank"

// tracing makes the spans of one client: one a call, as its caller saw it. The RPC's own span, which may end later, is
// otelgrpc's and lies below. Never any query or document text.
type tracing struct{ tracer trace.Tracer }

func newTracing(provider trace.TracerProvider) tracing {
	return tracing{tracer: provider.Tracer(instrumentation)}
}

func (t tracing) start(ctx context.Context, method string, c *call) (context.Context, trace.Span) {
	return t.tracer.Start(ctx, "millirank."+method, trace.WithAttributes(
		attribute.Float64("millirank.budget_ms", milliseconds(c.budget)),
		attribute.Int("millirank.documents", c.documents),
	))
}

// statsHandler traces the RPCs and writes the context onto them; health checks are nobody's business.
func statsHandler(provider trace.TracerProvider) grpc.DialOption {
	return grpc.WithStatsHandler(otelgrpc.NewClientHandler(
		otelgrpc.WithTracerProvider(provider),
		otelgrpc.WithPropagators(propagators{}),
		otelgrpc.WithFilter(func(info *stats.RPCTagInfo) bool { return info.FullMethodName != healthCheck }),
	))
}

// propagators is the global propagator or, where a program has set none (Go's default writes nothing), the W3C's.
type propagators struct{}

var w3c = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})

func (propagators) current() propagation.TextMapPropagator {
	if global := otel.GetTextMapPropagator(); len(global.Fields()) > 0 {
		return global
	}
	return w3c
}

func (p propagators) Inject(ctx context.Context, carrier propagation.TextMapCarrier) {
	p.current().Inject(ctx, carrier)
}

func (p propagators) Extract(ctx context.Context, carrier propagation.TextMapCarrier) context.Context {
	return p.current().Extract(ctx, carrier)
}

func (p propagators) Fields() []string { return p.current().Fields() }

// describeFailure writes that the sidecar gave no usable answer, whatever the caller gets instead.
func describeFailure(span trace.Span, failed *failure) {
	span.SetAttributes(attribute.String("error.type", string(failed.reason)))
	span.SetStatus(codes.Error, string(failed.reason))
}

// describeError writes an error's kind, never its message.
func describeError(span trace.Span, err error) {
	kind := strings.TrimPrefix(fmt.Sprintf("%T", err), "*")
	if failed := (*RerankError)(nil); errors.As(err, &failed) {
		kind = string(failed.Reason)
	}
	span.SetAttributes(attribute.String("error.type", kind))
	span.SetStatus(codes.Error, kind)
}

// describeRanking writes how a rerank ended.
func describeRanking[T any](span trace.Span, ranking *Ranking[T]) {
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(
		attribute.String("millirank.completeness", completenessOf(ranking.Outcome)),
		attribute.Bool("millirank.fallback", ranking.Fallback),
	)
	if len(ranking.Degradations) > 0 {
		reasons := make([]string, len(ranking.Degradations))
		for i, degradation := range ranking.Degradations {
			reasons[i] = string(degradation.Reason)
		}
		span.SetAttributes(attribute.StringSlice("millirank.degradation", reasons))
	}
	if decision := ranking.Decision; decision != nil {
		span.SetAttributes(
			attribute.String("millirank.strategy", string(decision.Strategy)),
			attribute.String("millirank.reranker", decision.Reranker),
			attribute.String("millirank.reason", string(decision.Reason)),
			attribute.Int("millirank.planned_k", decision.PlannedK),
			attribute.Int("millirank.scored_k", decision.ScoredK),
			attribute.String("millirank.cache", string(ranking.CacheStatus)),
		)
	}
}

// completenessOf is the outcome as the sidecar's own spans have it.
func completenessOf(outcome Outcome) string {
	switch outcome {
	case OutcomeRanked:
		return "full"
	case OutcomePartial:
		return "partial"
	default:
		return "first_stage_only"
	}
}
