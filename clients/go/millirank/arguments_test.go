package millirank_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millirank/millirank/clients/go/millirank"
	"github.com/millirank/millirank/clients/go/millirank/milliranktest"
	pb "github.com/millirank/millirank/clients/go/millirankv1"
)

// Bytes that are not UTF-8 are named by their field, and not quoted: they may be private. (JSON can't say this, so it
// is no shared vector.)
func TestTextHasToBeUTF8(t *testing.T) {
	_, client := start(t, milliranktest.Ranked())
	bad := "secret \xff"
	for field, attempt := range map[string]func() error{
		"query":       func() error { return rerank(client, bad, millirank.Document{}) },
		"instruction": func() error { return rerank(client, "query", millirank.Document{}, millirank.Instruction(bad)) },
		"documents[0].text": func() error {
			return rerank(client, "query", millirank.Document{Text: bad})
		},
		"documents[0].id": func() error { return rerank(client, "query", millirank.Document{ID: bad}) },
		"documents[0].signals": func() error {
			return rerank(client, "query", millirank.Document{Signals: map[string]float64{bad: 1}})
		},
		"documents[0].indexed_ref.id": func() error {
			return rerank(client, "query", millirank.Document{Index: &millirank.IndexedRef{Collection: "docs", ID: bad}})
		},
	} {
		var invalid *millirank.InvalidRequestError
		if err := attempt(); !errors.As(err, &invalid) {
			t.Errorf("%s: error is %v", field, err)
			continue
		}
		equal(t, "field", invalid.Field, field)
		if strings.Contains(invalid.Error(), "secret") {
			t.Errorf("%s: the error quotes the text: %v", field, invalid)
		}
	}
}

func rerank(client *millirank.Client, query string, document millirank.Document, options ...millirank.CallOption) error {
	_, err := millirank.Rerank(context.Background(), client, query, []millirank.Document{document}, nil, options...)
	return err
}

// Documents of the caller's own type need a description; the error says so.
func TestOwnTypesNeedADescription(t *testing.T) {
	_, client := start(t, milliranktest.Ranked())
	_, err := millirank.Rerank(context.Background(), client, "query", []int{1, 2}, nil)
	var invalid *millirank.InvalidRequestError
	if !errors.As(err, &invalid) || invalid.Field != "documents" {
		t.Errorf("error is %v", err)
	}
}

// A strategy that is no constant of this package is named.
func TestUnknownStrategiesAreNamed(t *testing.T) {
	_, client := start(t, milliranktest.Ranked())
	for field, option := range map[string]millirank.CallOption{
		"strategy":   millirank.ForceStrategy("best"),
		"allowed[1]": millirank.Allowed(millirank.StrategyLLM, "best"),
	} {
		var invalid *millirank.InvalidRequestError
		if err := rerank(client, "query", millirank.Document{}, option); !errors.As(err, &invalid) || invalid.Field != field {
			t.Errorf("%s: error is %v", field, err)
		}
	}
}

// What gRPC would take for something else than was meant is refused when the client is made.
func TestTargets(t *testing.T) {
	for _, good := range []string{"localhost:1", "[::1]:1", "unix:/run/x.sock", "unix:///run/x.sock", "dns:///host:1", "10.0.0.1:65535"} {
		connect(t, good)
	}
	for bad, hint := range map[string]string{
		"":                       "host:port",
		"localhost":              "host:port",
		"localhost:0":            "host:port",
		"localhost:99999":        "host:port",
		"http://localhost:50051": "looks like a URL",
	} {
		if _, err := millirank.New(bad); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%q: error is %v", bad, err)
		}
	}
}

// A negative time is named when the client is made.
func TestReserveAndSlackAreChecked(t *testing.T) {
	for name, option := range map[string]millirank.Option{
		"reserve": millirank.WithReserve(-time.Millisecond),
		"slack":   millirank.WithSlack(2 * time.Hour),
	} {
		if _, err := millirank.New("localhost:1", option); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// Every value of the contract's enums has a constant here; one that is added to the contract fails this test.
func TestConstantsAreTheContracts(t *testing.T) {
	for prefix, enum := range map[string]struct {
		names     map[int32]string
		constants []string
	}{
		"STRATEGY_": {pb.Strategy_name, names(millirank.StrategyUnspecified, millirank.StrategyAuto, millirank.StrategyNone,
			millirank.StrategySignals, millirank.StrategyCrossEncoder, millirank.StrategyLateInteraction, millirank.StrategyLLM,
			millirank.StrategyCascade)},
		"DECISION_REASON_": {pb.DecisionReason_name, names(millirank.DecisionUnspecified, millirank.DecisionBestExpectedGain,
			millirank.DecisionForced, millirank.DecisionBudgetTooSmall, millirank.DecisionNoGain, millirank.DecisionNotReady,
			millirank.DecisionNothingToDo, millirank.DecisionModeOff)},
		"VERDICT_": {pb.Verdict_name, names(millirank.VerdictUnspecified, millirank.VerdictChosen, millirank.VerdictLowerGain,
			millirank.VerdictNotWorthItsTime, millirank.VerdictOverBudget, millirank.VerdictOverCost, millirank.VerdictNoGain,
			millirank.VerdictNotAllowed, millirank.VerdictNotReady, millirank.VerdictOff, millirank.VerdictCircuitOpen,
			millirank.VerdictCannotScore)},
		"MODE_": {pb.Mode_name, names(millirank.ModeUnspecified, millirank.ModeOff, millirank.ModeObserve, millirank.ModeOn)},
		"CACHE_STATUS_": {pb.CacheStatus_name, names(millirank.CacheUnspecified, millirank.CacheMiss, millirank.CacheHit,
			millirank.CacheShared)},
		"DEGRADATION_REASON_": {pb.DegradationReason_name, append(names(millirank.ReasonBudgetTooSmall,
			millirank.ReasonBudgetExhausted, millirank.ReasonOverloaded, millirank.ReasonNotReady, millirank.ReasonBackendError,
			millirank.ReasonBackendTimeout, millirank.ReasonCircuitOpen, millirank.ReasonBadOutput,
			millirank.ReasonIndexUnavailable, millirank.ReasonDraining, millirank.ReasonInternal), "unspecified")},
	} {
		var contract []string
		for _, name := range enum.names {
			contract = append(contract, strings.ToLower(strings.TrimPrefix(name, prefix)))
		}
		slices.Sort(contract)
		slices.Sort(enum.constants)
		equalSlices(t, prefix, enum.constants, contract)
	}
}

func names[S ~string](constants ...S) []string {
	var all []string
	for _, constant := range constants {
		all = append(all, string(constant))
	}
	return all
}
