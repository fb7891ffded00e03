// Package e2e tests the Go client against a real sidecar process.
package e2e

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millirank/millirank/clients/go/internal/sidecarprocess"
	"github.com/millirank/millirank/clients/go/millirank"
)

// TestMain fails where any test leaves a goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A budget for tests about something else than time.
const roomy = 20 * time.Second

func connect(t *testing.T, sidecar *sidecarprocess.Process) *millirank.Client {
	t.Helper()
	client, err := millirank.New(sidecar.Target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := client.WaitUntilReady(ctx); err != nil {
		t.Fatal(err)
	}
	return client
}

// forced makes the sidecar score by its cross-encoder.
func forced(budget time.Duration) []millirank.CallOption {
	return []millirank.CallOption{millirank.Budget(budget), millirank.ForceStrategy(millirank.StrategyCrossEncoder), millirank.BypassCache()}
}

// warm waits until the model is loaded: the sidecar serves before it is.
func warm(t *testing.T, client *millirank.Client) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		ranking, err := millirank.Rerank(context.Background(), client, query, candidates(2), nil, forced(roomy)...)
		if err != nil {
			t.Fatal(err)
		}
		if ranking.Outcome == millirank.OutcomeRanked {
			return
		}
	}
	t.Fatal("the cross-encoder is not ready after a minute")
}

// candidates are as many documents of about 600 bytes, the last one the only one about the query.
func candidates(count int) []string {
	texts := make([]string, count)
	for i := range texts {
		texts[i] = fmt.Sprintf("Document %d. %s", i, strings.Repeat("The bakery opens at seven and sells bread. ", 13))
	}
	texts[count-1] = "How to replace the chain of a bicycle: open the old chain, thread the new chain, close its link."
	return texts
}

const query = "how do I replace a bicycle chain"

// The real sidecar moves the one relevant document from the last place to the first, and says how.
func TestRanks(t *testing.T) {
	client := connect(t, sidecarprocess.Start(t))
	warm(t, client)

	ranking, err := millirank.Rerank(context.Background(), client, query, candidates(20), nil, forced(roomy)...)
	if err != nil {
		t.Fatal(err)
	}
	if ranking.Outcome != millirank.OutcomeRanked || ranking.Results[0].Index != 19 || ranking.Decision.ScoredK != 20 {
		t.Errorf("%v, first is %d, decision %+v", ranking.Outcome, ranking.Results[0].Index, ranking.Decision)
	}

	decision, err := millirank.ExplainRoute(context.Background(), client, query, candidates(20), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(decision.Considered) == 0 || decision.ScoredK != 0 {
		t.Errorf("decision %+v", decision)
	}
}

// The sidecar's own errors arrive as this client's types.
func TestUnknownReranker(t *testing.T) {
	client := connect(t, sidecarprocess.Start(t))
	_, err := millirank.Rerank(context.Background(), client, query, candidates(5), nil, millirank.ForceReranker("nope"))
	if _, is := err.(*millirank.RerankerNotFoundError); !is {
		t.Errorf("error is %v", err)
	}
}

// long is work for the cross-encoder that takes seconds: never answered before the sidecar is stopped in these tests.
func long(client *millirank.Client, budget time.Duration) (*millirank.Ranking[string], error) {
	return millirank.Rerank(context.Background(), client, query, candidates(1000), nil, append(forced(budget), millirank.RerankK(1000))...)
}

// SIGKILL in the middle of its work: first-stage order then, not at the budget.
func TestKilledInMidCall(t *testing.T) {
	sidecar := sidecarprocess.Start(t)
	client := connect(t, sidecar)
	warm(t, client)
	time.AfterFunc(200*time.Millisecond, sidecar.Kill)

	ranking, err := long(client, roomy)
	if err != nil {
		t.Fatal(err)
	}
	assertFirstStage(t, ranking, 1000, millirank.ReasonSidecarUnavailable)
	if ranking.Elapsed < 150*time.Millisecond || ranking.Elapsed > roomy/2 {
		t.Errorf("took %v", ranking.Elapsed)
	}
}

// SIGSTOP in the middle of its work: first-stage order at the budget; after SIGCONT the same connection ranks again.
func TestFrozenInMidCall(t *testing.T) {
	sidecar := sidecarprocess.Start(t)
	client := connect(t, sidecar)
	warm(t, client)
	time.AfterFunc(100*time.Millisecond, sidecar.Freeze)

	ranking, err := long(client, 500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	assertFirstStage(t, ranking, 1000, millirank.ReasonSidecarTimeout)

	sidecar.Thaw()
	ranking, err = millirank.Rerank(context.Background(), client, query, candidates(20), nil, millirank.Budget(roomy))
	if err != nil || ranking.Fallback {
		t.Errorf("after it was thawed: %+v, %v", ranking, err)
	}
}

// The promise: against a frozen sidecar, 10,000 calls at 50 ms from 64 goroutines are all answered in first-stage order,
// 99.9 % of them within 55 ms. The calls go out by 200 clients, 50 each, so that every one of them waits for its timer:
// after 64 unanswered calls a client asks no more. Where others keep the processors from this process, plain sleeps of
// 50 ms, measured at the same time, say by how much. A stall may spoil a round; a client that waits for the wrong thing
// spoils all three.
func TestFrozenSidecarCostsTheBudget(t *testing.T) {
	const rounds, budget, tolerance = 3, 50 * time.Millisecond, 5 * time.Millisecond
	for round := 1; ; round++ {
		sidecar := sidecarprocess.Start(t)
		clients := make([]*millirank.Client, 200)
		for i := range clients {
			clients[i] = connect(t, sidecar)
		}
		idle := runtime.NumGoroutine()
		sidecar.Freeze()
		sleeps := make(chan []time.Duration)
		go func() {
			sleeps <- manyTimes(10_000, 64, func(int) { time.Sleep(budget) })
		}()
		documents := candidates(10)
		waits := manyTimes(10_000, 64, func(call int) {
			if t.Failed() {
				return // it has been said once; not ten thousand times
			}
			ranking, err := millirank.Rerank(context.Background(), clients[call%len(clients)], query, documents, nil, millirank.Budget(budget))
			if err != nil {
				t.Error(err)
				return
			}
			// When data lies unacknowledged for 5 s the kernel gives up the connection; until the next one stands the sidecar is
			// unavailable, and the answer comes at once. Budget exhausted: this process got no processor.
			assertFirstStage(t, ranking, len(documents), millirank.ReasonSidecarTimeout, millirank.ReasonSidecarUnavailable,
				millirank.ReasonBudgetExhausted)
		})
		plain := <-sleeps
		assertCallsEnd(t, idle)
		sidecar.Kill()
		t.Logf("10,000 calls at 50 ms: p50 %v, p99 %v, p99.9 %v, most %v; plain sleeps: p50 %v, p99.9 %v",
			quantile(waits, 500), quantile(waits, 990), quantile(waits, 999), waits[len(waits)-1],
			quantile(plain, 500), quantile(plain, 999))
		p999 := quantile(waits, 999)
		if p999 <= max(budget, quantile(plain, 999))+tolerance {
			return
		}
		if round == rounds {
			t.Fatalf("p99.9 is %v in the last of %d rounds", p999, rounds)
		}
	}
}

// One client that has given up asking a frozen sidecar asks again within a second of its return.
func TestThawedSidecarIsAskedAgain(t *testing.T) {
	sidecar := sidecarprocess.Start(t)
	client := connect(t, sidecar)
	sidecar.Freeze()
	manyTimes(500, 16, func(int) {
		ranking, err := millirank.Rerank(context.Background(), client, query, candidates(10), nil, millirank.Budget(20*time.Millisecond))
		if err != nil || !ranking.Fallback {
			t.Errorf("%+v, %v", ranking, err)
		}
	})
	time.Sleep(200 * time.Millisecond) // until no call is on its way that an answer could end the silence of
	sidecar.Thaw()
	for thawed := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		ranking, err := millirank.Rerank(context.Background(), client, query, candidates(10), nil, millirank.Budget(roomy))
		if err != nil {
			t.Fatal(err)
		}
		if !ranking.Fallback {
			return
		}
		if time.Since(thawed) > time.Second {
			t.Fatalf("still %v", ranking.Degradations)
		}
	}
}

// 150 MB of requests by 64 callers that nobody reads: what is kept is those before the silence, and no others.
func TestFrozenSidecarFillsNoMemory(t *testing.T) {
	sidecar := sidecarprocess.Start(t)
	client := connect(t, sidecar)
	documents := candidates(100)
	sidecar.Freeze()
	before := heapMB()
	manyTimes(2_500, 64, func(int) {
		if _, err := millirank.Rerank(context.Background(), client, query, documents, nil, millirank.Budget(50*time.Millisecond)); err != nil {
			t.Error(err)
		}
	})
	kept := heapMB() - before
	t.Logf("2,500 requests of 60 kB: %d MB kept", kept)
	if kept > 160 {
		t.Errorf("%d MB are kept", kept)
	}
}

// heapMB is what is in use, without what the garbage collector would free.
func heapMB() int {
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return int(memory.HeapAlloc >> 20)
}

// manyTimes is what each call took, sorted.
func manyTimes(calls, callers int, call func(number int)) []time.Duration {
	took := make([]time.Duration, calls)
	var next atomic.Int64
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for i := next.Add(1) - 1; i < int64(calls); i = next.Add(1) - 1 {
				started := time.Now()
				call(int(i))
				took[i] = time.Since(started)
			}
		})
		time.Sleep(time.Millisecond) // in step, each would wait for what all others do in the same millisecond
	}
	running.Wait()
	slices.Sort(took)
	return took
}

// quantile is the value that this many of a thousand do not exceed.
func quantile(sorted []time.Duration, thousandths int) time.Duration {
	return sorted[(len(sorted)-1)*thousandths/1000]
}

// assertCallsEnd: the calls that were left end by their gRPC deadline, 50 ms after the budget; no more goroutines run than
// before them.
func assertCallsEnd(t *testing.T, before int) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left", runtime.NumGoroutine())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func assertFirstStage(t *testing.T, ranking *millirank.Ranking[string], count int, reasons ...millirank.Reason) {
	t.Helper()
	if !ranking.Fallback || len(ranking.Results) != count || !slices.Contains(reasons, ranking.Reasons()[0]) {
		t.Errorf("%v, %d results, %v", ranking.Outcome, len(ranking.Results), ranking.Degradations)
	}
	for i, entry := range ranking.Results {
		if entry.Index != i {
			t.Errorf("place %d has index %d", i, entry.Index)
			return
		}
	}
}
