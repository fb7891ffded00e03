package millirank_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/millirank/millirank/clients/go/millirank"
	"github.com/millirank/millirank/clients/go/millirank/milliranktest"
	pb "github.com/millirank/millirank/clients/go/millirankv1"
)

// Without any call, a listener sees the connection.
func TestConnectingStartsAtConstruction(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	connect(t, listener.Addr().String())
	if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

// NOT_SERVING is waited for, as long as the context allows; SERVING ends the wait.
func TestReadyMeansServing(t *testing.T) {
	sidecar := milliranktest.NewSidecar(milliranktest.Ranked())
	defer sidecar.Close()
	sidecar.Serving(false)
	client := connect(t, sidecar.Target())
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := client.WaitUntilReady(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { sidecar.Serving(true) })
	waitUntilReady(t, client)
}

// Nobody listens: an error that names the target, when the context ends.
func TestNotReadyInTime(t *testing.T) {
	target := milliranktest.DeadTarget()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	err := connect(t, target).WaitUntilReady(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), target) {
		t.Errorf("error is %v", err)
	}
}

// Use after Close is a mistake of the program, named as such; closing twice is not.
func TestClosedClientSaysSo(t *testing.T) {
	_, client := start(t, milliranktest.Ranked())
	for range 2 {
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	_, rerankErr := millirank.Rerank(ctx, client, "query", texts, nil)
	_, explainErr := millirank.ExplainRoute(ctx, client, "query", texts, nil)
	for _, err := range []error{rerankErr, explainErr, client.WaitUntilReady(ctx)} {
		if !errors.Is(err, millirank.ErrClosed) {
			t.Errorf("error is %v", err)
		}
	}
	equal(t, "calls", client.Stats().Calls, 0)
}

// A caller's own gRPC options are in force: here, its user agent.
func TestOwnDialOptionsWin(t *testing.T) {
	sidecar, client := start(t, milliranktest.Ranked(), millirank.WithDialOptions(grpc.WithUserAgent("shop/7")))
	mustRank(t, client)
	if agent := sidecar.Received()[0].Metadata.Get("user-agent"); len(agent) != 1 || !strings.HasPrefix(agent[0], "shop/7") {
		t.Errorf("user agent is %v", agent)
	}
}

// unix:/path works like host:port; without a health service the sidecar counts as ready.
func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "millirank.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, listener)
	client := connect(t, "unix:"+path)
	waitUntilReady(t, client)
	mustRank(t, client)
}

// With credentials the connection is TLS: a trusted certificate ranks, an untrusted one is a fallback.
func TestTLS(t *testing.T) {
	certificate, pool := selfSigned(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, listener, grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	target := "localhost:" + port

	trusting := connect(t, target, millirank.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool})))
	waitUntilReady(t, trusting)
	mustRank(t, trusting)

	distrusting := connect(t, target, millirank.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: x509.NewCertPool()})))
	ranking, err := millirank.Rerank(context.Background(), distrusting, "query", texts, nil, millirank.Budget(roomy))
	if err != nil {
		t.Fatal(err)
	}
	equalSlices(t, "reasons", ranking.Reasons(), []millirank.Reason{millirank.ReasonSidecarUnavailable})
}

// serve answers on this listener, in reverse, without a health service.
func serve(t *testing.T, listener net.Listener, options ...grpc.ServerOption) {
	t.Helper()
	sidecar := milliranktest.NewSidecar(milliranktest.Ranked())
	t.Cleanup(sidecar.Close)
	server := grpc.NewServer(options...)
	pb.RegisterRerankServiceServer(server, sidecar)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
}

func mustRank(t *testing.T, client *millirank.Client) {
	t.Helper()
	ranking, err := millirank.Rerank(context.Background(), client, "query", texts, nil, millirank.Budget(roomy))
	if err != nil {
		t.Fatal(err)
	}
	equalSlices(t, "documents", ranking.Documents(), []string{"delta", "gamma", "beta", "alpha"})
}

// selfSigned is a certificate for localhost, and a pool that trusts it.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
