package millirank

import (
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/millirank/millirank/clients/go/millirankv1"
)

const errorDomain = "millirank.io"

// failure is why no usable answer came, through no mistake of the caller.
type failure struct {
	reason     Reason
	detail     string
	code       codes.Code // OK where no status came
	retryAfter time.Duration
}

func (f *failure) asError() *RerankError {
	return &RerankError{Reason: f.reason, Detail: f.detail, Code: f.code, RetryAfter: f.retryAfter}
}

// readStatus sorts a call's error into the caller's mistakes (an error) and everything else (a failure). It is the only
// such table; the same as the other clients have.
func readStatus(err error) (*failure, error) {
	found := status.Convert(err)
	details := readDetails(found)
	switch found.Code() {
	case codes.InvalidArgument:
		return nil, &InvalidRequestError{Field: details.field, Message: found.Message()}
	case codes.NotFound:
		return nil, &RerankerNotFoundError{Message: found.Message()}
	case codes.FailedPrecondition:
		return nil, &RerankerOffError{Message: found.Message()}
	}
	reason := details.reason
	if reason == "" {
		reason = reasonOfCode(found.Code())
	}
	return &failure{
		reason:     reason,
		detail:     found.Code().String() + ": " + found.Message(),
		code:       found.Code(),
		retryAfter: details.retryAfter,
	}, nil
}

func reasonOfCode(code codes.Code) Reason {
	switch code {
	case codes.Unavailable, codes.Canceled: // Canceled is what a call gets when its connection is closed under it
		return ReasonSidecarUnavailable
	case codes.DeadlineExceeded:
		return ReasonSidecarTimeout
	}
	return ReasonSidecarError
}

// statusDetails is what the google.rpc.Status in the trailers says, as far as this client acts on it.
type statusDetails struct {
	field      string
	reason     Reason
	retryAfter time.Duration
}

func readDetails(found *status.Status) statusDetails {
	var details statusDetails
	for _, detail := range found.Details() {
		switch detail := detail.(type) {
		case *errdetails.BadRequest:
			if violations := detail.GetFieldViolations(); len(violations) > 0 {
				details.field = violations[0].GetField()
			}
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == errorDomain {
				details.reason = degradationNamed(detail.GetReason())
			}
		case *errdetails.RetryInfo:
			details.retryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	return details
}

// degradationNamed is the reason that an ErrorInfo names; "" where it names an error that is no degradation.
func degradationNamed(name string) Reason {
	if number := pb.DegradationReason_value["DEGRADATION_REASON_"+name]; number != 0 {
		return Reason(strings.ToLower(name))
	}
	return ""
}
