package millirank

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const (
	// So many calls in a row without a word from the sidecar: more are not sent until it says something.
	maxUnanswered = 64
	probeTimeout  = 250 * time.Millisecond
)

// silence notices a sidecar that reads nothing any more. gRPC keeps what it could not send until the connection is given
// up, also of calls that ended long ago: measured with grpc-go 1.85, a megabyte for each request of 60 kB, for 5 s over
// TCP and 35 s over a Unix socket. So that the caller's memory is bounded, requests are held back while nobody reads
// them. A health check, a few bytes, finds out when to go on.
type silence struct {
	health     healthpb.HealthClient
	unanswered atomic.Int64
	probing    atomic.Bool
}

// left: a caller went without an answer: its budget ended, or its context was cancelled.
func (s *silence) left() { s.unanswered.Add(1) }

// ended: an RPC ended like this. Every end but our own deadline or cancellation is a word from the sidecar, or the end of
// the connection and of what it kept.
func (s *silence) ended(err error) {
	if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Canceled {
		s.unanswered.Store(0)
	}
}

// lasts says whether to hold requests back; it sees to it that somebody is finding out.
func (s *silence) lasts() bool {
	if s.unanswered.Load() < maxUnanswered {
		return false
	}
	if !s.probing.Swap(true) {
		go s.probe()
	}
	return true
}

func (s *silence) probe() {
	defer s.probing.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	_, err := s.health.Check(ctx, &healthpb.HealthCheckRequest{})
	s.ended(err)
}
