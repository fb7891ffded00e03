package millirank

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/millirank/millirank/clients/go/millirankv1"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const (
	defaultReserve = time.Millisecond
	defaultSlack   = 50 * time.Millisecond
	healthPoll     = 50 * time.Millisecond
)

// Client reranks within a budget; see [Rerank]. Safe for use by several goroutines; one per process is enough.
type Client struct {
	connection *grpc.ClientConn
	service    pb.RerankServiceClient
	health     healthpb.HealthClient
	reserve    time.Duration
	slack      time.Duration
	tracing    tracing
	stats      *statsRecorder
	silence    *silence
	closed     atomic.Bool
}

// Option changes a client; see [New].
type Option func(*clientOptions)

type clientOptions struct {
	credentials credentials.TransportCredentials
	reserve     time.Duration
	slack       time.Duration
	provider    trace.TracerProvider
	token       *string
	dial        []grpc.DialOption
}

// WithTransportCredentials makes the connection TLS (credentials.NewTLS); without it, it is insecure.
func WithTransportCredentials(creds credentials.TransportCredentials) Option {
	return func(o *clientOptions) { o.credentials = creds }
}

// WithToken sends a bearer token with every call, for a sidecar that asks for one (its listen.token_file). Without TLS
// it goes to this machine only (a Unix socket, loopback): for any other target [New] returns an error.
func WithToken(token string) Option {
	return func(o *clientOptions) { o.token = &token }
}

// WithReserve is kept back from what the sidecar may spend, for the way there and back: 1 ms without this option. At
// most a tenth of a budget is taken.
func WithReserve(reserve time.Duration) Option {
	return func(o *clientOptions) { o.reserve = reserve }
}

// WithSlack is what the gRPC deadline adds to the budget, so that late answers can be counted: 50 ms without this
// option. Nobody waits for it.
func WithSlack(slack time.Duration) Option {
	return func(o *clientOptions) { o.slack = slack }
}

// WithTracerProvider is used in place of OpenTelemetry's global one.
func WithTracerProvider(provider trace.TracerProvider) Option {
	return func(o *clientOptions) { o.provider = provider }
}

// WithDialOptions are the caller's own gRPC options. They come after this client's and win.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(o *clientOptions) { o.dial = append(o.dial, options...) }
}

// New makes a client of the sidecar at target: "host:port" or "unix:/path", or any other of gRPC's. Connecting starts
// at once and happens in the background. The error says which argument is wrong; that no sidecar is there is none.
func New(target string, options ...Option) (*Client, error) {
	chosen := clientOptions{
		credentials: insecure.NewCredentials(),
		reserve:     defaultReserve,
		slack:       defaultSlack,
		provider:    otel.GetTracerProvider(),
	}
	for _, option := range options {
		option(&chosen)
	}
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	for _, each := range []struct {
		name  string
		value time.Duration
	}{{"reserve", chosen.reserve}, {"slack", chosen.slack}} {
		if each.value < 0 || each.value > maxBudget {
			return nil, fmt.Errorf("millirank: %s is %v; pass a duration from 0 to %v", each.name, each.value, maxBudget)
		}
	}
	dial := dialOptions(chosen.credentials, chosen.provider)
	if chosen.token != nil {
		bearer, err := newBearer(*chosen.token, target)
		if err != nil {
			return nil, err
		}
		dial = append(dial, grpc.WithPerRPCCredentials(bearer))
	}
	connection, err := grpc.NewClient(target, append(dial, chosen.dial...)...)
	if err != nil && chosen.token != nil {
		return nil, fmt.Errorf("millirank: a token goes over TLS (WithTransportCredentials) or to this machine (unix:/path, loopback): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("millirank: %w", err)
	}
	connection.Connect()
	health := healthpb.NewHealthClient(connection)
	return &Client{
		connection: connection,
		service:    pb.NewRerankServiceClient(connection),
		health:     health,
		silence:    &silence{health: health},
		reserve:    chosen.reserve,
		slack:      chosen.slack,
		tracing:    newTracing(chosen.provider),
		stats:      newStatsRecorder(),
	}, nil
}

// Stats is what this client has answered so far; a snapshot.
func (c *Client) Stats() Stats { return c.stats.snapshot() }

// WaitUntilReady waits until the sidecar is reachable and does not call itself NOT_SERVING, at most as long as ctx
// allows. For start-up and tests: reranking needs no waiting, it falls back by itself.
func (c *Client) WaitUntilReady(ctx context.Context) error {
	for {
		if c.closed.Load() {
			return ErrClosed
		}
		answer, err := c.health.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		switch {
		case status.Code(err) == codes.Unimplemented:
			return nil // reachable, without a health service: there is nothing more to be known
		case err == nil && answer.GetStatus() == healthpb.HealthCheckResponse_SERVING:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("millirank: the sidecar at %s is not ready: %w", c.connection.Target(), ctx.Err())
		case <-time.After(healthPoll):
		}
	}
}

// Close closes the connection. Calls in flight are answered in first-stage order.
func (c *Client) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return c.connection.Close()
}
