package millirank_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millirank/millirank/clients/go/millirank"
	"github.com/millirank/millirank/clients/go/millirank/milliranktest"
)

// TestMain fails where any test of this package leaves a goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A budget for tests about something else than time: no stall of the machine turns their answer into a fallback.
const roomy = 10 * time.Second

func waitUntilReady(t *testing.T, client *millirank.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := client.WaitUntilReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// connect makes a client that is closed with the test.
func connect(t *testing.T, target string, options ...millirank.Option) *millirank.Client {
	t.Helper()
	client, err := millirank.New(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// start makes a sidecar and a client that is connected to it.
func start(t *testing.T, behaviour milliranktest.Behaviour, options ...millirank.Option) (*milliranktest.Sidecar, *millirank.Client) {
	t.Helper()
	sidecar := milliranktest.NewSidecar(behaviour)
	t.Cleanup(sidecar.Close)
	client := connect(t, sidecar.Target(), options...)
	waitUntilReady(t, client)
	return sidecar, client
}
