// Package milliranktest has a sidecar for tests: a real gRPC server on loopback, in this process, that answers as told.
//
//	sidecar := milliranktest.NewSidecar(milliranktest.Ranked(2, 0, 1))
//	defer sidecar.Close()
//	client, err := millirank.New(sidecar.Target())
package milliranktest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/metadata"

	pb "github.com/millirank/millirank/clients/go/millirankv1"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Received is one request that reached the sidecar, by Rerank or ExplainRoute.
type Received struct {
	Request  *pb.RerankRequest
	Metadata metadata.MD
	// Left is what was left of the gRPC deadline; 0 where there was none.
	Left time.Duration
}

// Sidecar is a gRPC server that answers every rerank as its [Behaviour] says. Safe for use by several goroutines.
type Sidecar struct {
	pb.UnimplementedRerankServiceServer

	mutex     sync.Mutex
	address   string
	server    *grpc.Server
	served    chan struct{} // closed when server's accept loop has ended
	health    *health.Server
	behaviour Behaviour
	decision  *pb.Decision
	received  []Received
}

// NewSidecar starts a sidecar on a free loopback port. It panics where there is none, as httptest.NewServer does.
func NewSidecar(behaviour Behaviour) *Sidecar {
	sidecar := &Sidecar{
		address:   "127.0.0.1:0",
		behaviour: behaviour,
		health:    health.NewServer(),
		decision: &pb.Decision{
			Id:       "fake",
			Strategy: pb.Strategy_STRATEGY_CROSS_ENCODER,
			Reranker: reranker,
			Reason:   pb.DecisionReason_DECISION_REASON_BEST_EXPECTED_GAIN,
			Mode:     pb.Mode_MODE_ON,
		},
	}
	sidecar.Start()
	return sidecar
}

// DeadTarget is a target at which nothing listens.
func DeadTarget() string {
	sidecar := NewSidecar(Ranked())
	defer sidecar.Close()
	return sidecar.Target()
}

// Target is where the sidecar listens, the same after a restart.
func (s *Sidecar) Target() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.address
}

// Behave changes what the sidecar does with the requests to come.
func (s *Sidecar) Behave(behaviour Behaviour) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.behaviour = behaviour
}

// Decide changes what ExplainRoute answers.
func (s *Sidecar) Decide(decision *pb.Decision) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.decision = decision
}

// Serving changes what the health service says of the sidecar: SERVING or NOT_SERVING.
func (s *Sidecar) Serving(serving bool) {
	state := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		state = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", state)
}

// Received is what has come in so far, oldest first.
func (s *Sidecar) Received() []Received {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return slices.Clone(s.received)
}

// Start listens again after [Sidecar.Stop], on the same port; with it, a restart can be played through.
func (s *Sidecar) Start() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.server != nil {
		panic("milliranktest: the sidecar is running; call Stop first")
	}
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		panic(fmt.Sprintf("milliranktest: no port to listen on: %v", err))
	}
	server, served := grpc.NewServer(), make(chan struct{})
	pb.RegisterRerankServiceServer(server, s)
	healthpb.RegisterHealthServer(server, s.health)
	s.address, s.server, s.served = listener.Addr().String(), server, served
	go func() {
		defer close(served)
		_ = server.Serve(listener) // ends with an error of its own when it is stopped
	}()
}

// Stop closes the port and every connection, as a killed process would.
func (s *Sidecar) Stop() {
	s.mutex.Lock()
	server, served := s.server, s.served
	s.server = nil
	s.mutex.Unlock()
	if server != nil {
		server.Stop()
		<-served
	}
}

// Close is [Sidecar.Stop], for a deferred call.
func (s *Sidecar) Close() { s.Stop() }

// Rerank implements the service.
func (s *Sidecar) Rerank(ctx context.Context, request *pb.RerankRequest) (*pb.RerankResponse, error) {
	behaviour, _ := s.note(ctx, request)
	return behaviour(ctx, request)
}

// ExplainRoute implements the service; where the behaviour fails, it fails too.
func (s *Sidecar) ExplainRoute(ctx context.Context, request *pb.ExplainRouteRequest) (*pb.ExplainRouteResponse, error) {
	behaviour, decision := s.note(ctx, request.GetRequest())
	if _, err := behaviour(ctx, request.GetRequest()); err != nil {
		return nil, err
	}
	return &pb.ExplainRouteResponse{Decision: decision}, nil
}

func (s *Sidecar) note(ctx context.Context, request *pb.RerankRequest) (Behaviour, *pb.Decision) {
	received := Received{Request: request}
	received.Metadata, _ = metadata.FromIncomingContext(ctx)
	if deadline, has := ctx.Deadline(); has {
		received.Left = time.Until(deadline)
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.received = append(s.received, received)
	return s.behaviour, s.decision
}
