package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/millirank/millirank/clients/go/internal/sidecarprocess"
	"github.com/millirank/millirank/clients/go/millirank"
	"github.com/millirank/millirank/clients/go/millirank/milliranktest"
)

const pages = `{"id": "open", "text": "open: open a file and return a stream"}
{"id": "close", "text": "close: close the file"}
{"id": "sorted", "text": "sorted: a new list with all items in order"}
`

func newIndex(t *testing.T) *Index {
	t.Helper()
	index, err := NewIndex(strings.NewReader(pages))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = index.Close() })
	return index
}

func connect(t *testing.T, target string, options ...millirank.Option) *millirank.Client {
	t.Helper()
	client, err := millirank.New(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// The first stage finds what has the words, best first, and nothing else.
func TestIndexFinds(t *testing.T) {
	hits, err := newIndex(t).Search("opening a file", 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(hits) != 2 || hits[0].ID != "open" || hits[1].ID != "close" || hits[0].BM25 <= hits[1].BM25 {
		t.Errorf("found %+v", hits)
	}
}

// A line that is no page is named by its number.
func TestBrokenLine(t *testing.T) {
	if _, err := NewIndex(strings.NewReader(pages + "nonsense")); err == nil || !strings.Contains(err.Error(), "page 4") {
		t.Errorf("error is %v", err)
	}
}

// Without a sidecar the service answers what its first stage found.
func TestServiceWithoutASidecar(t *testing.T) {
	service := &Service{
		index: newIndex(t), reranker: connect(t, milliranktest.DeadTarget()), tracer: trace.NewTracerProvider().Tracer("test"),
		budget: 50 * time.Millisecond,
	}
	answer, err := service.Search(context.Background(), "file")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(answer.Ranking.Documents(), answer.Found) || answer.Ranking.Outcome != millirank.OutcomeFirstStage {
		t.Errorf("answer is %+v", answer)
	}
}

// Over HTTP a search answers in the first stage's order while there is no sidecar, and says so; told to end, the service
// finishes and returns without an error.
func TestServiceOverHTTP(t *testing.T) {
	service := &Service{
		index: newIndex(t), reranker: connect(t, milliranktest.DeadTarget()), tracer: trace.NewTracerProvider().Tracer("test"),
		budget: 50 * time.Millisecond,
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, service) }()

	var answer found
	get(t, listener, "/search?q=opening+a+file", http.StatusOK, &answer)
	if want := []result{{"open", 1}, {"close", 2}}; !slices.Equal(answer.Results, want) {
		t.Errorf("results are %v", answer.Results)
	}
	if answer.Outcome != string(millirank.OutcomeFirstStage) || answer.Strategy != "" {
		t.Errorf("answer is %+v", answer)
	}
	get(t, listener, "/search", http.StatusBadRequest, nil)
	get(t, listener, "/healthz", http.StatusOK, nil)
	end()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// get asks for a path, checks the status and decodes the body into into, unless that is nil.
func get(t *testing.T, listener net.Listener, path string, status int, into any) {
	t.Helper()
	response, err := http.Get("http://" + listener.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != status {
		t.Errorf("%s: %s", path, response.Status)
	}
	if into != nil {
		if err := json.NewDecoder(response.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
}

// One search is one trace: from the service's span over the client's and the sidecar's to the chunks that were scored.
func TestOneConnectedTrace(t *testing.T) {
	receiver := receiveTraces(t)
	sidecar := sidecarprocess.Start(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+receiver.endpoint, "OTEL_BSP_SCHEDULE_DELAY=50")
	recorder := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(recorder))
	service := &Service{
		index: newIndex(t), reranker: connect(t, sidecar.Target, millirank.WithTracerProvider(provider)),
		tracer: provider.Tracer("search"), budget: 10 * time.Second,
	}

	root := searchUntilScored(t, service)
	sidecar.Terminate() // it exports what it has before it ends

	search := child(t, recorder, root.SpanID(), "search")
	rerank := child(t, recorder, search, "millirank.Rerank")
	rpc := child(t, recorder, rerank, "millirank.v1.RerankService/Rerank")
	id := root.TraceID()
	server := receiver.children(id[:], rpc[:])
	if len(server) != 1 || server[0].Kind != otlp.Span_SPAN_KIND_SERVER {
		t.Fatalf("below the client's span are %v", server)
	}
	names := map[string]int{}
	for _, span := range receiver.children(id[:], server[0].SpanId) {
		names[span.Name]++
	}
	if names["route"] != 1 || names["score"] < 1 {
		t.Errorf("below the server's span are %v", names)
	}
}

// searchUntilScored searches until a model has scored (the sidecar serves before its models are loaded), and returns the
// span around that search.
func searchUntilScored(t *testing.T, service *Service) oteltrace.SpanContext {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		ctx, span := service.tracer.Start(context.Background(), "query")
		answer, err := service.Search(ctx, "close a file")
		span.End()
		if err != nil {
			t.Fatal(err)
		}
		if decision := answer.Ranking.Decision; decision != nil && decision.ScoredK > 0 && decision.Reranker != "" {
			return span.SpanContext()
		}
	}
	t.Fatal("no model has scored anything within a minute")
	return oteltrace.SpanContext{}
}

// child is the span of this name below parent.
func child(t *testing.T, recorder *tracetest.SpanRecorder, parent oteltrace.SpanID, name string) oteltrace.SpanID {
	t.Helper()
	for _, span := range recorder.Ended() {
		if span.Name() == name && span.Parent().SpanID() == parent {
			return span.SpanContext().SpanID()
		}
	}
	t.Fatalf("no span %q below %v", name, parent)
	return oteltrace.SpanID{}
}

// traceReceiver is where the sidecar exports its spans to: OTLP's trace service.
type traceReceiver struct {
	collector.UnimplementedTraceServiceServer
	endpoint string
	mutex    sync.Mutex
	spans    []*otlp.Span
}

func receiveTraces(t *testing.T) *traceReceiver {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	receiver := &traceReceiver{endpoint: "http://" + listener.Addr().String()}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, receiver)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return receiver
}

func (r *traceReceiver) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			r.spans = append(r.spans, scope.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// children are the spans of the trace directly below the parent.
func (r *traceReceiver) children(trace, parent []byte) []*otlp.Span {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	var found []*otlp.Span
	for _, span := range r.spans {
		if bytes.Equal(span.TraceId, trace) && bytes.Equal(span.ParentSpanId, parent) {
			found = append(found, span)
		}
	}
	return found
}
