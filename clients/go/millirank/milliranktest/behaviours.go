package milliranktest

import (
	"context"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/millirank/millirank/clients/go/millirank"
	pb "github.com/millirank/millirank/clients/go/millirankv1"
)

// Behaviour is what a sidecar does with a request. Any function is one; those here are the usual ones.
type Behaviour func(ctx context.Context, request *pb.RerankRequest) (*pb.RerankResponse, error)

const reranker = "fake"

// Ranked answers FULL with the candidates in this order (positions; none given: reversed), all scored. Nothing checks
// the order: a wrong one is how to see what the client does with it.
func Ranked(order ...int) Behaviour {
	return func(_ context.Context, request *pb.RerankRequest) (*pb.RerankResponse, error) {
		positions := order
		if len(order) == 0 {
			positions = reversed(len(request.Documents))
		}
		return answer(request, positions, len(positions), pb.Completeness_COMPLETENESS_FULL, ""), nil
	}
}

// Partial answers PARTIAL for this reason of the sidecar's: the first candidates, as many as scored says, in reverse,
// the rest in first-stage order.
func Partial(scored int, reason millirank.Reason) Behaviour {
	return func(_ context.Context, request *pb.RerankRequest) (*pb.RerankResponse, error) {
		prefix := min(scored, len(request.Documents))
		positions := append(reversed(prefix), inOrder(len(request.Documents))[prefix:]...)
		return answer(request, positions, prefix, pb.Completeness_COMPLETENESS_PARTIAL, reason), nil
	}
}

// FirstStage answers FIRST_STAGE_ONLY for this reason of the sidecar's.
func FirstStage(reason millirank.Reason) Behaviour {
	return func(_ context.Context, request *pb.RerankRequest) (*pb.RerankResponse, error) {
		positions := inOrder(len(request.Documents))
		return answer(request, positions, 0, pb.Completeness_COMPLETENESS_FIRST_STAGE_ONLY, reason), nil
	}
}

// Failing answers with a status, and with details as a sidecar sends them; see [WrongField], [ErrorReason], [RetryAfter].
func Failing(code codes.Code, message string, details ...protoadapt.MessageV1) Behaviour {
	failed := status.New(code, message)
	if len(details) > 0 {
		var err error
		if failed, err = failed.WithDetails(details...); err != nil {
			panic(err) // only for the code OK
		}
	}
	return func(context.Context, *pb.RerankRequest) (*pb.RerankResponse, error) { return nil, failed.Err() }
}

// WrongField is the detail of an INVALID_ARGUMENT.
func WrongField(field string) protoadapt.MessageV1 {
	return &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field}}}
}

// ErrorReason is the detail that names a reason; the sidecar's domain is "millirank.io".
func ErrorReason(reason, domain string) protoadapt.MessageV1 {
	return &errdetails.ErrorInfo{Reason: reason, Domain: domain}
}

// RetryAfter is the detail that says when to come back.
func RetryAfter(delay time.Duration) protoadapt.MessageV1 {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)}
}

// Slow waits before it behaves, or until nobody waits for the answer any more.
func Slow(delay time.Duration, behaviour Behaviour) Behaviour {
	return func(ctx context.Context, request *pb.RerankRequest) (*pb.RerankResponse, error) {
		select {
		case <-time.After(delay):
			return behaviour(ctx, request)
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// Hanging never answers.
func Hanging() Behaviour {
	return func(ctx context.Context, _ *pb.RerankRequest) (*pb.RerankResponse, error) {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func answer(
	request *pb.RerankRequest, positions []int, scored int, completeness pb.Completeness, reason millirank.Reason,
) *pb.RerankResponse {
	count := len(request.Documents)
	response := &pb.RerankResponse{
		RequestId:    request.RequestId,
		Completeness: completeness,
		Decision: &pb.Decision{
			Id:       "fake",
			Strategy: pb.Strategy_STRATEGY_CROSS_ENCODER,
			Reranker: reranker,
			PlannedK: uint32(count),
			ScoredK:  uint32(scored),
			Reason:   pb.DecisionReason_DECISION_REASON_BEST_EXPECTED_GAIN,
			Mode:     pb.Mode_MODE_ON,
		},
		Usage:       &pb.Usage{Pairs: uint32(scored)},
		CacheStatus: pb.CacheStatus_CACHE_STATUS_MISS,
	}
	if reason != "" {
		response.Degradations = []*pb.Degradation{{
			Reason: pb.DegradationReason(pb.DegradationReason_value["DEGRADATION_REASON_"+strings.ToUpper(string(reason))]),
			Detail: "as told",
		}}
	}
	if request.TopN > 0 {
		positions = positions[:min(int(request.TopN), len(positions))]
	}
	for rank, position := range positions {
		result := &pb.Result{Index: uint32(position), ScoreSource: pb.ScoreSource_SCORE_SOURCE_FIRST_STAGE}
		if position < count {
			result.Id = request.Documents[position].Id
		}
		if rank < scored {
			score, raw := float64(count-rank), 1/float64(1+rank)
			result.Score, result.RawScore = &score, &raw
			result.ScoreSource = pb.ScoreSource_SCORE_SOURCE_RERANKER
		}
		response.Results = append(response.Results, result)
	}
	return response
}

func inOrder(count int) []int {
	positions := make([]int, count)
	for i := range positions {
		positions[i] = i
	}
	return positions
}

func reversed(count int) []int {
	positions := make([]int, count)
	for i := range positions {
		positions[i] = count - 1 - i
	}
	return positions
}
