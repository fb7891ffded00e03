package millirank_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	grpccodes "google.golang.org/grpc/codes"

	"github.com/millirank/millirank/clients/go/millirank"
	"github.com/millirank/millirank/clients/go/millirank/milliranktest"
)

// traced is a client whose spans are kept, and its sidecar.
func traced(t *testing.T, behaviour milliranktest.Behaviour) (*milliranktest.Sidecar, *millirank.Client, *tracetest.SpanRecorder) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder))
	sidecar, client := start(t, behaviour, millirank.WithTracerProvider(provider))
	return sidecar, client, recorder
}

// spanNamed waits for the span: the RPC's own may end after the call.
func spanNamed(t *testing.T, recorder *tracetest.SpanRecorder, name string) sdk.ReadOnlySpan {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, span := range recorder.Ended() {
			if span.Name() == name {
				return span
			}
		}
	}
	t.Fatalf("no span %q", name)
	return nil
}

func attributes(span sdk.ReadOnlySpan) map[attribute.Key]string {
	found := map[attribute.Key]string{}
	for _, pair := range span.Attributes() {
		found[pair.Key] = pair.Value.String()
	}
	return found
}

// The sidecar gets the RPC's trace context and the caller's baggage, though the program has set no propagator.
func TestContextTravels(t *testing.T) {
	sidecar, client, recorder := traced(t, milliranktest.Ranked())
	member, err := baggage.NewMember("tenant", "acme")
	if err != nil {
		t.Fatal(err)
	}
	bag, err := baggage.New(member)
	if err != nil {
		t.Fatal(err)
	}
	_, err = millirank.Rerank(baggage.ContextWithBaggage(context.Background(), bag), client, "query", texts, nil, millirank.Budget(roomy))
	if err != nil {
		t.Fatal(err)
	}

	rpc := spanNamed(t, recorder, "millirank.v1.RerankService/Rerank").SpanContext()
	metadata := sidecar.Received()[0].Metadata
	equalSlices(t, "traceparent", metadata.Get("traceparent"), []string{fmt.Sprintf("00-%s-%s-01", rpc.TraceID(), rpc.SpanID())})
	equalSlices(t, "baggage", metadata.Get("baggage"), []string{"tenant=acme"})
}

// A call has one span that says what came of it, and the RPC's span below.
func TestSpanSaysWhatCameOfTheCall(t *testing.T) {
	_, client, recorder := traced(t, milliranktest.Partial(2, millirank.ReasonOverloaded))
	if _, err := millirank.Rerank(context.Background(), client, "query", texts, nil, millirank.Budget(roomy)); err != nil {
		t.Fatal(err)
	}

	span := spanNamed(t, recorder, "millirank.Rerank")
	found := attributes(span)
	for key, wanted := range map[attribute.Key]string{
		"millirank.budget_ms": "10000", "millirank.documents": "4", "millirank.completeness": "partial",
		"millirank.fallback": "false", "millirank.degradation": `["overloaded"]`, "millirank.strategy": "cross_encoder",
		"millirank.reranker": "fake", "millirank.reason": "best_expected_gain", "millirank.planned_k": "4",
		"millirank.scored_k": "2", "millirank.cache": "miss",
	} {
		equal(t, string(key), found[key], wanted)
	}
	equal(t, "status", span.Status().Code, codes.Unset)
	rpc := spanNamed(t, recorder, "millirank.v1.RerankService/Rerank")
	equal(t, "parent of the RPC's span", rpc.Parent().SpanID(), span.SpanContext().SpanID())
}

// A fallback is an error on the span, by its reason, though the caller gets none.
func TestSpanOfAFallback(t *testing.T) {
	_, client, recorder := traced(t, milliranktest.Hanging())
	if _, err := millirank.Rerank(context.Background(), client, "query", texts, nil, millirank.Budget(budget)); err != nil {
		t.Fatal(err)
	}

	span := spanNamed(t, recorder, "millirank.Rerank")
	equal(t, "status", span.Status().Code, codes.Error)
	found := attributes(span)
	equal(t, "error.type", found["error.type"], "sidecar_timeout")
	equal(t, "fallback", found["millirank.fallback"], "true")
	equal(t, "completeness", found["millirank.completeness"], "first_stage_only")
}

// Neither query nor documents nor messages are on any span, whatever goes wrong.
func TestNoTextOnSpans(t *testing.T) {
	sidecar, client, recorder := traced(t, milliranktest.Failing(grpccodes.InvalidArgument, "as told"))
	documents := []millirank.Document{{ID: "secret", Text: "secret"}}
	_, err := millirank.Rerank(context.Background(), client, "secret", documents, nil, millirank.Instruction("secret"), millirank.Budget(roomy))
	var invalid *millirank.InvalidRequestError
	if !errors.As(err, &invalid) {
		t.Fatalf("error is %v", err)
	}
	sidecar.Behave(milliranktest.Ranked())
	if _, err := millirank.Rerank(context.Background(), client, "secret", documents, nil, millirank.Budget(roomy)); err != nil {
		t.Fatal(err)
	}
	spanNamed(t, recorder, "millirank.v1.RerankService/Rerank")
	for _, span := range tracetest.SpanStubsFromReadOnlySpans(recorder.Ended()) {
		if written := fmt.Sprintf("%+v", span); strings.Contains(written, "secret") {
			t.Errorf("%s", written)
		}
	}
}
