package millirank

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/millirank/millirank/clients/go/millirankv1"
)

// A reserve of 1 ms must not eat half of a budget of 2 ms.
const maxReserveShare = 10

// call is one rerank on its way: what was asked, how much time is left. Its clock is the monotonic one.
type call struct {
	started   time.Time
	budget    time.Duration
	reserve   time.Duration
	slack     time.Duration
	strict    bool
	topN      int
	mayOmit   bool // documents under a min_score may be missing
	documents int
	request   *pb.RerankRequest
}

// newCall starts the clock, then reads and checks the arguments.
func newCall[T any](
	ctx context.Context, client *Client, query string, documents []T, describe func(T) Document, options []CallOption,
) (*call, *callOptions, error) {
	started := time.Now()
	o := newCallOptions(options)
	request, err := newRequest(query, documents, describe, &o)
	if err != nil {
		return nil, nil, err
	}
	if client.closed.Load() {
		return nil, nil, ErrClosed
	}
	budget := o.budget
	if deadline, has := ctx.Deadline(); has {
		budget = max(0, min(budget, deadline.Sub(started)))
	}
	return &call{
		started:   started,
		budget:    budget,
		reserve:   min(client.reserve, budget/maxReserveShare),
		slack:     client.slack,
		strict:    o.strict,
		topN:      o.topN,
		mayOmit:   o.minScore != nil,
		documents: len(documents),
		request:   request,
	}, &o, nil
}

func (c *call) elapsed() time.Duration { return time.Since(c.started) }

// left is what is left of the budget; negative when it has been overrun.
func (c *call) left() time.Duration { return c.budget - c.elapsed() }

// kept is how many documents top_n keeps.
func (c *call) kept() int {
	if c.topN == 0 {
		return c.documents
	}
	return min(c.topN, c.documents)
}

// withLatency is the request with what the sidecar may spend of left.
func (c *call) withLatency(left time.Duration) *pb.RerankRequest {
	c.request.Budget.Latency = durationpb.New(max(0, left-c.reserve))
	return c.request
}

// noTimeToAsk is why asking the sidecar would be pointless; nil where it is not.
func (c *call) noTimeToAsk() *failure {
	if c.budget == 0 {
		return &failure{reason: ReasonBudgetTooSmall, detail: "the budget is 0"}
	}
	if c.left() <= c.reserve {
		detail := fmt.Sprintf("preparing the request took %v of %v", c.elapsed(), c.budget)
		return &failure{reason: ReasonBudgetExhausted, detail: detail}
	}
	return nil
}

// reply is how an RPC ended.
type reply struct {
	response *pb.RerankResponse
	err      error
}

// ask sends the request and waits for its answer, at most until the budget ends. What comes back is one of: a response,
// a failure to fall back from, the caller's mistake or cancellation as an error.
//
// The RPC runs in a goroutine of its own because everything that it may wait for (name resolution, a connection, flow
// control, the peer) ends at its deadline and not at the budget. That deadline, the slack later, ends the goroutine too.
func (client *Client) ask(ctx context.Context, c *call) (*pb.RerankResponse, *failure, error) {
	if client.silence.lasts() {
		detail := fmt.Sprintf("not asked: the last %d calls got no answer", maxUnanswered)
		return nil, &failure{reason: ReasonSidecarTimeout, detail: detail}, nil
	}
	rpc, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.left()+c.slack)
	request := c.withLatency(c.left())
	// So the sidecar knows how long the request was under way before it was read.
	request.Budget.DeadlineSlack = durationpb.New(c.reserve + c.slack)
	replies := make(chan reply, 1)
	var over atomic.Bool // the caller has left, or the reply has come: whoever sets it first
	go func() {
		defer cancel()
		response, err := client.service.Rerank(rpc, request)
		client.silence.ended(err)
		if over.Swap(true) {
			if err == nil {
				client.stats.late()
			}
			return
		}
		replies <- reply{response, err}
	}()

	timer := time.NewTimer(c.left())
	defer timer.Stop()
	select {
	case answer := <-replies:
		return readReply(answer)
	case <-timer.C:
	case <-ctx.Done():
	}
	if over.Swap(true) {
		return readReply(<-replies) // it came at the same moment
	}
	client.silence.left()
	if err := ctx.Err(); errors.Is(err, context.Canceled) {
		cancel()
		return nil, nil, err
	}
	return nil, &failure{reason: ReasonSidecarTimeout, detail: fmt.Sprintf("no answer within the budget of %v", c.budget)}, nil
}

func readReply(answer reply) (*pb.RerankResponse, *failure, error) {
	if answer.err == nil {
		return answer.response, nil, nil
	}
	failed, err := readStatus(answer.err)
	return nil, failed, err
}

// explainRequest is the request with its whole budget, as if it had just come in.
func (c *call) explainRequest() *pb.ExplainRouteRequest {
	return &pb.ExplainRouteRequest{Request: c.withLatency(c.budget)}
}
