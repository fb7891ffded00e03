package millirank_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/protoadapt"

	"github.com/millirank/millirank/clients/go/millirank"
	"github.com/millirank/millirank/clients/go/millirank/milliranktest"
	pb "github.com/millirank/millirank/clients/go/millirankv1"
)

// vector is one test vector; the format is described in tests/vectors/README.md.
type vector struct {
	Name     string        `json:"name"`
	Contract string        `json:"contract"`
	Call     string        `json:"call"`
	Client   vectorClient  `json:"client"`
	Request  vectorRequest `json:"request"`
	Sidecar  []step        `json:"sidecar"`
	Expect   expectation   `json:"expect"`
}

type vectorClient struct {
	Reserve *ms `json:"reserve_ms"`
	Slack   *ms `json:"slack_ms"`
}

type vectorRequest struct {
	Query     string           `json:"query"`
	Documents []vectorDocument `json:"documents"`
	Generated *struct {
		Count      int `json:"count"`
		Characters int `json:"characters"`
	} `json:"generated_documents"`
	Budget      ms       `json:"budget_ms"`
	Corpus      string   `json:"corpus"`
	TopN        int      `json:"top_n"`
	Strategy    string   `json:"strategy"`
	Reranker    string   `json:"reranker"`
	Allowed     []string `json:"allowed"`
	RerankK     int      `json:"rerank_k"`
	Instruction string   `json:"instruction"`
	MinScore    *number  `json:"min_score"`
	MaxCost     *uint64  `json:"max_cost_micro_usd"`
	Tenant      string   `json:"tenant"`
	RequestID   string   `json:"request_id"`
	UseCache    *bool    `json:"use_cache"`
	Strict      bool     `json:"strict"`
}

type vectorDocument struct {
	ID         string            `json:"id"`
	Text       string            `json:"text"`
	Signals    map[string]number `json:"signals"`
	IndexedRef []string          `json:"indexed_ref"`
}

// step is what the sidecar does with one request.
type step struct {
	Does     string          `json:"does"`
	Response json.RawMessage `json:"response"`
	Decision json.RawMessage `json:"decision"`
	Status   *struct {
		Code       string  `json:"code"`
		Message    string  `json:"message"`
		Field      string  `json:"field"`
		Reason     string  `json:"reason"`
		Domain     *string `json:"domain"`
		RetryAfter *ms     `json:"retry_after_ms"`
	} `json:"status"`
	Delay ms `json:"delay_ms"`
}

type expectation struct {
	Outcome        string          `json:"outcome"`
	Fallback       *bool           `json:"fallback"`
	Reasons        []string        `json:"reasons"`
	Order          []int           `json:"order"`
	FirstStageOf   int             `json:"first_stage_of"`
	Scores         []*float64      `json:"scores"`
	RawScores      []*float64      `json:"raw_scores"`
	Strategy       string          `json:"strategy"`
	DecisionReason string          `json:"decision_reason"`
	RequestID      string          `json:"request_id"`
	Error          *expectedError  `json:"error"`
	Requests       *int            `json:"requests"`
	Sent           json.RawMessage `json:"sent"`
	Latency        *bounds         `json:"latency_ms"`
	Deadline       *bounds         `json:"deadline_ms"`
	Stats          *counters       `json:"stats"`
	Settle         ms              `json:"settle_ms"`
	Took           *bounds         `json:"took_ms"`
}

type expectedError struct {
	Kind       string `json:"kind"`
	Field      string `json:"field"`
	Reason     string `json:"reason"`
	Code       string `json:"code"`
	RetryAfter ms     `json:"retry_after_ms"`
}

type counters struct {
	Calls      uint64            `json:"calls"`
	Ranked     uint64            `json:"ranked"`
	Partial    uint64            `json:"partial"`
	FirstStage uint64            `json:"first_stage"`
	Raised     uint64            `json:"raised"`
	Fallbacks  map[string]uint64 `json:"fallbacks"`
	Late       uint64            `json:"late"`
}

// ms is a number of milliseconds.
type ms float64

func (m ms) duration() time.Duration { return time.Duration(float64(m) * float64(time.Millisecond)) }

// bounds are the least and the most milliseconds.
type bounds [2]ms

func (b bounds) holds(duration time.Duration) bool {
	return b[0].duration() <= duration && duration <= b[1].duration()
}

// number is a float that JSON may lack: "NaN", "Infinity".
type number float64

func (n *number) UnmarshalJSON(data []byte) error {
	switch text := string(data); text {
	case `"NaN"`:
		*n = number(math.NaN())
	case `"Infinity"`:
		*n = number(math.Inf(1))
	default:
		return json.Unmarshal(data, (*float64)(n))
	}
	return nil
}

// candidate is the caller's own object; compared by identity.
type candidate struct{ described millirank.Document }

func describe(c *candidate) millirank.Document { return c.described }

func (c vectorClient) options() []millirank.Option {
	var options []millirank.Option
	if c.Reserve != nil {
		options = append(options, millirank.WithReserve(c.Reserve.duration()))
	}
	if c.Slack != nil {
		options = append(options, millirank.WithSlack(c.Slack.duration()))
	}
	return options
}

func (r vectorRequest) documents() []*candidate {
	var documents []*candidate
	for _, each := range r.Documents {
		described := millirank.Document{ID: each.ID, Text: each.Text}
		for name, score := range each.Signals {
			if described.Signals == nil {
				described.Signals = map[string]float64{}
			}
			described.Signals[name] = float64(score)
		}
		if each.IndexedRef != nil {
			described.Index = &millirank.IndexedRef{Collection: each.IndexedRef[0], ID: each.IndexedRef[1]}
		}
		documents = append(documents, &candidate{described})
	}
	if r.Generated != nil {
		text := strings.Repeat("x", r.Generated.Characters)
		for range r.Generated.Count {
			documents = append(documents, &candidate{millirank.Document{Text: text}})
		}
	}
	return documents
}

func (r vectorRequest) options() []millirank.CallOption {
	options := []millirank.CallOption{
		millirank.Budget(r.Budget.duration()),
		millirank.Corpus(r.Corpus),
		millirank.TopN(r.TopN),
		millirank.ForceReranker(r.Reranker),
		millirank.RerankK(r.RerankK),
		millirank.Instruction(r.Instruction),
		millirank.Tenant(r.Tenant),
		millirank.RequestID(r.RequestID),
	}
	if r.Strategy != "" {
		options = append(options, millirank.ForceStrategy(strategy(r.Strategy)))
	}
	var allowed []millirank.Strategy
	for _, name := range r.Allowed {
		allowed = append(allowed, strategy(name))
	}
	options = append(options, millirank.Allowed(allowed...))
	if r.MinScore != nil {
		options = append(options, millirank.MinScore(float64(*r.MinScore)))
	}
	if r.MaxCost != nil {
		options = append(options, millirank.MaxCostMicroUSD(*r.MaxCost))
	}
	if r.UseCache != nil && !*r.UseCache {
		options = append(options, millirank.BypassCache())
	}
	if r.Strict {
		options = append(options, millirank.Strict())
	}
	return options
}

func strategy(name string) millirank.Strategy { return millirank.Strategy(strings.ToLower(name)) }

func (e expectation) order() []int {
	if e.FirstStageOf == 0 {
		return e.Order
	}
	var order []int
	for i := range e.FirstStageOf {
		order = append(order, i)
	}
	return order
}

func (v *vector) startsConnected() bool {
	return v.Sidecar[0].Does != "refuse" && v.Sidecar[0].Does != "ignore"
}

// play starts the vector's sidecar: the target to connect to, and the sidecar that notes what arrives.
func (v *vector) play(t *testing.T) (string, *milliranktest.Sidecar) {
	t.Helper()
	var served atomic.Int32
	var sidecar *milliranktest.Sidecar
	sidecar = milliranktest.NewSidecar(func(ctx context.Context, request *pb.RerankRequest) (*pb.RerankResponse, error) {
		number := int(served.Add(1))
		this := v.Sidecar[min(number, len(v.Sidecar))-1]
		return milliranktest.Slow(this.Delay.duration(), this.behaviour(sidecar))(ctx, request)
	})
	t.Cleanup(sidecar.Close)
	if raw := v.Sidecar[0].Decision; raw != nil {
		decision := &pb.Decision{}
		if err := protojson.Unmarshal(raw, decision); err != nil {
			t.Fatal(err)
		}
		sidecar.Decide(decision)
	}
	switch v.Sidecar[0].Does {
	case "refuse":
		sidecar.Stop()
	case "ignore":
		return silentListener(t), sidecar
	}
	return sidecar.Target(), sidecar
}

func (s step) behaviour(sidecar *milliranktest.Sidecar) milliranktest.Behaviour {
	switch s.Does {
	case "answer":
		return func(context.Context, *pb.RerankRequest) (*pb.RerankResponse, error) {
			response := &pb.RerankResponse{}
			if s.Response == nil {
				return response, nil // for explain, which has a decision instead
			}
			return response, protojson.Unmarshal(s.Response, response)
		}
	case "hang":
		return milliranktest.Hanging()
	case "disconnect":
		return func(ctx context.Context, request *pb.RerankRequest) (*pb.RerankResponse, error) {
			go sidecar.Stop()
			return milliranktest.Hanging()(ctx, request)
		}
	case "status":
		return s.failing()
	}
	panic(fmt.Sprintf("no sidecar can do %q", s.Does))
}

func (s step) failing() milliranktest.Behaviour {
	var details []protoadapt.MessageV1
	if s.Status.Reason != "" {
		domain := "millirank.io"
		if s.Status.Domain != nil {
			domain = *s.Status.Domain
		}
		details = append(details, milliranktest.ErrorReason(s.Status.Reason, domain))
	}
	if s.Status.Field != "" {
		details = append(details, milliranktest.WrongField(s.Status.Field))
	}
	if s.Status.RetryAfter != nil {
		details = append(details, milliranktest.RetryAfter(s.Status.RetryAfter.duration()))
	}
	return milliranktest.Failing(codeNamed(s.Status.Code), s.Status.Message, details...)
}

// silentListener is a target whose connections are accepted (by the kernel) and never spoken to.
func silentListener(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().String()
}
