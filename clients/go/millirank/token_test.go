package millirank_test

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/millirank/millirank/clients/go/millirank"
	"github.com/millirank/millirank/clients/go/millirank/milliranktest"
)

const (
	token   = "s3cret"
	network = "192.0.2.7:50051" // an address that is nobody's (RFC 5737)
)

// "authorization: Bearer ..." goes with rerank and explain; loopback needs no TLS.
func TestEveryCallCarriesTheToken(t *testing.T) {
	sidecar, client := start(t, milliranktest.Ranked(), millirank.WithToken(token))
	mustRank(t, client)
	if _, err := millirank.ExplainRoute(context.Background(), client, "query", texts, nil, millirank.ExplainTimeout(roomy)); err != nil {
		t.Fatal(err)
	}
	for _, received := range sidecar.Received() {
		equalSlices(t, "authorization", received.Metadata.Get("authorization"), []string{"Bearer " + token})
	}
	equal(t, "calls", len(sidecar.Received()), 2)
}

// The error names the fix and does not repeat the token; with TLS, by either option, the same target is fine.
func TestTokenInPlainTextOverANetworkIsRefused(t *testing.T) {
	secure := credentials.NewTLS(&tls.Config{})
	for _, target := range []string{"sidecar.example:50051", network, "dns:///sidecar:50051", "127.0.0.1.example:1"} {
		_, err := millirank.New(target, millirank.WithToken(token))
		if err == nil || !strings.Contains(err.Error(), "WithTransportCredentials") || strings.Contains(err.Error(), token) {
			t.Errorf("%s: error is %v", target, err)
		}
	}
	connect(t, network, millirank.WithToken(token), millirank.WithTransportCredentials(secure))
	connect(t, network, millirank.WithToken(token), millirank.WithDialOptions(grpc.WithTransportCredentials(secure)))
}

// Nothing that is sent to a Unix socket or to loopback passes a network.
func TestTokenToThisMachineNeedsNoTLS(t *testing.T) {
	for _, target := range []string{"unix:/run/m.sock", "unix:relative.sock", "localhost:1", "dns:///localhost:1", "[::1]:1"} {
		connect(t, target, millirank.WithToken(token))
	}
}

// A token as it is read from a file, with its line end, would fail every call: said at once.
func TestTokenThatNoHeaderCarriesIsRefused(t *testing.T) {
	for _, wrong := range []string{"", "s3cret\n", " s3cret", "s3crét"} {
		if _, err := millirank.New("127.0.0.1:1", millirank.WithToken(wrong)); err == nil || !strings.Contains(err.Error(), "line end") {
			t.Errorf("%q: error is %v", wrong, err)
		}
	}
}
