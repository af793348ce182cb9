package midrib

import (
	"errors"
	"time"

	rpc "midrib/rpc"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// Error is how a call, or one item of a stream, was refused. Branch on its Reason, such as "BACKBONE_NOT_FOUND".
type Error struct {
	Code    codes.Code
	Reason  string
	Message string
	// Field is the place in the request that is wrong, such as "input.tensor.shape"; empty where there is none.
	Field string
	// RetryAfter says when the same call may succeed; zero where waiting does not help.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Message }

// Reason is the reason of an error of this package, and empty for any other.
func Reason(err error) string {
	var refused *Error
	if errors.As(err, &refused) {
		return refused.Reason
	}
	return ""
}

// ErrorFromStatus returns the error that a status carries.
func ErrorFromStatus(status *rpc.Status) *Error {
	code := codes.Code(status.GetCode())
	refused := &Error{Code: code, Reason: code.String(), Message: status.GetMessage()}
	for _, detail := range status.GetDetails() {
		message, err := detail.UnmarshalNew()
		if err != nil {
			continue // a detail that this client does not know
		}
		switch known := message.(type) {
		case *rpc.ErrorInfo:
			refused.Reason = known.GetReason()
		case *rpc.RetryInfo:
			refused.RetryAfter = known.GetRetryDelay().AsDuration()
		case *rpc.BadRequest:
			for _, violation := range known.GetFieldViolations() {
				refused.Field = violation.GetField()
			}
		}
	}
	return refused
}

// errorFromCall returns the error of a failed call. What grpc holds is copied field by field, for the type of its
// status depends on its version.
func errorFromCall(err error) error {
	if err == nil {
		return nil
	}
	held := status.Convert(err)
	copied := &rpc.Status{Code: int32(held.Code()), Message: held.Message()}
	for _, detail := range held.Proto().GetDetails() {
		copied.Details = append(copied.Details, &anypb.Any{TypeUrl: detail.TypeUrl, Value: detail.Value})
	}
	return ErrorFromStatus(copied)
}
