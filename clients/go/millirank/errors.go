package millirank

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
)

// ErrClosed is returned by calls on a client that has been closed.
var ErrClosed = errors.New("millirank: the client is closed; make a new one")

// InvalidRequestError says that an argument or a field of the request is wrong (INVALID_ARGUMENT). It is returned also
// when the call is not strict, as are [RerankerNotFoundError] and [RerankerOffError]: the request would fail again.
type InvalidRequestError struct {
	// Field names what is wrong; empty if that is not known.
	Field string
	// Message says what is wrong and what to do; it quotes no text of the query or the documents.
	Message string
}

func (e *InvalidRequestError) Error() string { return "millirank: " + e.Message }

// RerankerNotFoundError says that the forced strategy or reranker does not exist in this sidecar (NOT_FOUND).
type RerankerNotFoundError struct{ Message string }

func (e *RerankerNotFoundError) Error() string { return "millirank: " + e.Message }

// RerankerOffError says that the forced reranker is switched off or can't serve (FAILED_PRECONDITION).
type RerankerOffError struct{ Message string }

func (e *RerankerOffError) Error() string { return "millirank: " + e.Message }

// RerankError says that there is no ordering as planned, where first-stage order was not wanted: from a [Strict] call,
// or from [ExplainRoute].
type RerankError struct {
	Reason Reason
	Detail string
	// Code is the gRPC status; codes.OK where no status came.
	Code codes.Code
	// RetryAfter is the sidecar's advice; 0 without.
	RetryAfter time.Duration
}

func (e *RerankError) Error() string { return fmt.Sprintf("millirank: %s: %s", e.Reason, e.Detail) }

func invalid(field, format string, values ...any) *InvalidRequestError {
	return &InvalidRequestError{Field: field, Message: field + " " + fmt.Sprintf(format, values...)}
}
