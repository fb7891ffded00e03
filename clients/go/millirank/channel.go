package millirank

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const (
	healthCheck = healthpb.Health_Check_FullMethodName
	// A request above this is not kept for the second attempt; gRPC's own 256 KiB is less than 100 long documents.
	retryBuffer      = 4 << 20
	maxAnswer        = 16 << 20
	connectTimeout   = time.Second
	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// One more attempt, and only where the first one did not reach a sidecar (it is being restarted).
const serviceConfig = `{"methodConfig": [{
	"name": [{"service": "millirank.v1.RerankService"}],
	"retryPolicy": {
		"maxAttempts": 2,
		"initialBackoff": "0.005s",
		"maxBackoff": "0.02s",
		"backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`

// A sidecar that restarts is a matter of 100 ms, not of gRPC's 1 s growing to 2 min.
var reconnect = backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 100 * time.Millisecond}

func dialOptions(creds credentials.TransportCredentials, provider trace.TracerProvider) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: connectTimeout}),
		grpc.WithDefaultServiceConfig(serviceConfig),
		// Ours is meant; and no look-ups of TXT records in search of another.
		grpc.WithDisableServiceConfig(),
		// Pings go out only while calls run, so that no server takes them for abuse.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		// An idle client stays connected: the next call should not pay for a connection.
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(
			grpc.MaxRetryRPCBufferSize(retryBuffer),
			// The sidecar's limit decides: 4 MiB by default, its operator can raise it.
			grpc.MaxCallSendMsgSize(math.MaxInt32),
			grpc.MaxCallRecvMsgSize(maxAnswer),
		),
		// The sidecar is next door; an http_proxy in the environment is not meant for it.
		grpc.WithNoProxy(),
		statsHandler(provider),
	}
}

var (
	hostPort = regexp.MustCompile(`^(\[[0-9a-fA-F:.%\w]+\]|[^:/\s\[\]]+):(\d{1,5})$`)
	scheme   = regexp.MustCompile(`^(unix|unix-abstract|dns|passthrough):|^[a-z][a-z0-9+.-]*:///`)
)

// checkTarget refuses what gRPC would take for something else than was meant.
func checkTarget(target string) error {
	if scheme.MatchString(target) {
		return nil
	}
	if strings.Contains(target, "://") {
		return fmt.Errorf("millirank: target %q looks like a URL; pass \"host:port\" or \"unix:/path\" (TLS is WithTransportCredentials)", target)
	}
	match := hostPort.FindStringSubmatch(target)
	if match != nil {
		if port, err := strconv.Atoi(match[2]); err == nil && port > 0 && port < 1<<16 {
			return nil
		}
	}
	return fmt.Errorf("millirank: target %q has no valid port; pass \"host:port\" or \"unix:/path\"", target)
}
