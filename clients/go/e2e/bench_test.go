package e2e

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/millirank/millirank/clients/go/internal/sidecarprocess"
	"github.com/millirank/millirank/clients/go/millirank"
	pb "github.com/millirank/millirank/clients/go/millirankv1"
)

// BenchmarkRerank is what the client adds to a bare stub call: 100 candidates of 600 bytes, passed through (NONE), over
// TCP and over a Unix socket. Calls of both alternate, on the same sidecar, so that both see the same machine.
func BenchmarkRerank(b *testing.B) {
	socket := filepath.Join(b.TempDir(), "millirank.sock")
	for name, settings := range map[string][]string{
		"tcp":  nil,
		"unix": {"MILLIRANK_LISTEN__TCP=", "MILLIRANK_LISTEN__UNIX=" + socket},
	} {
		b.Run(name, func(b *testing.B) {
			sidecar := sidecarprocess.Start(b, settings...)
			client, stub := clients(b, sidecar.Target)
			documents := candidates(100)
			var ours, bare []time.Duration
			for b.Loop() {
				bare = append(bare, timed(func() { callStub(b, stub, documents) }))
				ours = append(ours, timed(func() { callClient(b, client, documents) }))
			}
			slices.Sort(bare)
			slices.Sort(ours)
			for unit, thousandths := range map[string]int{"p50": 500, "p99": 990} {
				b.ReportMetric(float64(quantile(bare, thousandths).Microseconds())/1e3, "stub-"+unit+"-ms")
				b.ReportMetric(float64(quantile(ours, thousandths).Microseconds())/1e3, "client-"+unit+"-ms")
			}
		})
	}
}

func clients(b *testing.B, target string) (*millirank.Client, pb.RerankServiceClient) {
	b.Helper()
	client, err := millirank.New(target)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Close() })
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = connection.Close() })
	return client, pb.NewRerankServiceClient(connection)
}

func timed(call func()) time.Duration {
	started := time.Now()
	call()
	return time.Since(started)
}

func callStub(b *testing.B, stub pb.RerankServiceClient, texts []string) {
	request := &pb.RerankRequest{
		Query:   query,
		Budget:  &pb.Budget{Latency: durationpb.New(roomy)},
		Routing: &pb.Routing{Strategy: pb.Strategy_STRATEGY_NONE},
	}
	for _, text := range texts {
		request.Documents = append(request.Documents, &pb.Document{Text: text})
	}
	ctx, cancel := context.WithTimeout(context.Background(), roomy)
	defer cancel()
	if _, err := stub.Rerank(ctx, request); err != nil {
		b.Fatal(err)
	}
}

func callClient(b *testing.B, client *millirank.Client, texts []string) {
	ranking, err := millirank.Rerank(context.Background(), client, query, texts, nil,
		millirank.Budget(roomy), millirank.ForceStrategy(millirank.StrategyNone))
	if err != nil || ranking.Fallback {
		b.Fatalf("%+v, %v", ranking, err)
	}
}
