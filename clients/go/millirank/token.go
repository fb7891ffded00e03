package millirank

import (
	"context"
	"errors"
	"regexp"
	"strings"
)

// bearer sends a token with every call: google.golang.org/grpc/credentials.PerRPCCredentials. gRPC refuses to make a
// connection without TLS for credentials that require it.
type bearer struct {
	token string
	local bool // nothing that is sent there passes a network
}

var (
	thisMachine = regexp.MustCompile(`^(unix|unix-abstract):|^((dns|passthrough):///)?(localhost|127(\.\d{1,3}){3}|\[::1\]):\d{1,5}$`)
	tokenText   = regexp.MustCompile(`^[\x20-\x7e]+$`)
)

func newBearer(token, target string) (*bearer, error) {
	if !tokenText.MatchString(token) || token != strings.TrimSpace(token) {
		return nil, errors.New("millirank: the token has to be printable ASCII without white space around it; did a line end come along?")
	}
	return &bearer{token: token, local: thisMachine.MatchString(target)}, nil
}

func (b *bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

func (b *bearer) RequireTransportSecurity() bool { return !b.local }
