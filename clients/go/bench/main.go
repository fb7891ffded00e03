// Command bench measures what the client adds to a bare stub call: the same request by both in turn, to one sidecar, in
// one process. `make bench-clients` runs it.
//
// usage: bench TARGET ROUNDS CALLS WARM-UP
//
// It prints {"Go": {"stub": [[ms, ...], ...], "client": ...}}: what each of CALLS calls of each of ROUNDS rounds took.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/millirank/millirank/clients/go/millirank"
	pb "github.com/millirank/millirank/clients/go/millirankv1"
)

const (
	query  = "how to open a file for reading and writing"
	budget = 20 * time.Second // nothing is to run into it
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) != 4 {
		return fmt.Errorf("usage: bench TARGET ROUNDS CALLS WARM-UP")
	}
	var numbers [3]int
	for i, argument := range arguments[1:] {
		number, err := strconv.Atoi(argument)
		if err != nil {
			return err
		}
		numbers[i] = number
	}
	rounds, calls, warmUp := numbers[0], numbers[1], numbers[2]
	target, texts := arguments[0], candidates()

	client, err := millirank.New(target)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	stub := pb.NewRerankServiceClient(connection)

	byStub := func() error { return callStub(stub, texts) }
	byClient := func() error { return callClient(client, texts) }
	if _, _, err := inTurn(warmUp, byStub, byClient); err != nil {
		return err
	}
	took := map[string][][]float64{}
	for range rounds {
		stubMs, clientMs, err := inTurn(calls, byStub, byClient)
		if err != nil {
			return err
		}
		took["stub"] = append(took["stub"], stubMs)
		took["client"] = append(took["client"], clientMs)
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"Go": took})
}

// candidates are 100 of 600 bytes.
func candidates() []string {
	texts := make([]string, 100)
	for i := range texts {
		texts[i] = (fmt.Sprintf("Candidate %d ", i) + strings.Repeat("says what a passage of a manual says about files. ", 20))[:600]
	}
	return texts
}

// inTurn is what each call took in ms; who goes first changes with every pair.
func inTurn(calls int, stub, client func() error) (stubMs, clientMs []float64, err error) {
	for i := range calls {
		for turn := range 2 {
			call, took := stub, &stubMs
			if (i+turn)%2 == 1 {
				call, took = client, &clientMs
			}
			started := time.Now()
			if err := call(); err != nil {
				return nil, nil, err
			}
			*took = append(*took, float64(time.Since(started).Nanoseconds())/1e6)
		}
	}
	return stubMs, clientMs, nil
}

// callStub is what one would write without the client: make the message, call with a deadline, hold the answer.
func callStub(stub pb.RerankServiceClient, texts []string) error {
	request := &pb.RerankRequest{
		Query:   query,
		Budget:  &pb.Budget{Latency: durationpb.New(budget)},
		Routing: &pb.Routing{Strategy: pb.Strategy_STRATEGY_NONE},
	}
	for _, text := range texts {
		request.Documents = append(request.Documents, &pb.Document{Text: text})
	}
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	response, err := stub.Rerank(ctx, request)
	if err == nil && len(response.GetResults()) != len(texts) {
		err = fmt.Errorf("%d results", len(response.GetResults()))
	}
	return err
}

func callClient(client *millirank.Client, texts []string) error {
	ranking, err := millirank.Rerank(context.Background(), client, query, texts, nil,
		millirank.Budget(budget), millirank.ForceStrategy(millirank.StrategyNone))
	if err == nil && ranking.Outcome != millirank.OutcomeRanked {
		err = fmt.Errorf("%v: %v", ranking.Outcome, ranking.Degradations)
	}
	return err
}
