package midrib

import (
	"errors"
	"time"

	"midrib.example/clients/go/rpc"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// codeNames are the names of the codes in google.rpc.Code, as in every other client: grpc for Go spells them otherwise.
var codeNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// Error is the refusal of a call, or of one item of a stream. Branch on its Reason, such as "BACKBONE_NOT_FOUND", or
// the name of the code, such as "DEADLINE_EXCEEDED", if no server of Midrib answered.
type Error struct {
	Code    codes.Code
	Reason  string
	Message string
	// Field is the place in the request that is wrong, such as "input.tensor.shape"; empty if there is none.
	Field string
	// RetryAfter says when the same call may succeed; zero if waiting does not help.
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

func codeName(code codes.Code) string {
	if int(code) < len(codeNames) {
		return codeNames[code]
	}
	return "UNKNOWN"
}

// ErrorFromStatus returns the error that a status carries.
func ErrorFromStatus(status *rpc.Status) *Error {
	code := codes.Code(status.GetCode())
	refused := &Error{Code: code, Reason: codeName(code), Message: status.GetMessage()}
	for _, detail := range status.GetDetails() {
		refused.read(detail)
	}
	return refused
}

// read takes the fields of a detail that this client knows. The details are those of google.rpc; package rpc has copies
// of their types, because a second google.rpc in one program would end it at its start.
func (e *Error) read(detail *anypb.Any) {
	switch detail.GetTypeUrl() {
	case "type.googleapis.com/google.rpc.ErrorInfo":
		info := &rpc.ErrorInfo{}
		if proto.Unmarshal(detail.Value, info) == nil {
			e.Reason = info.GetReason()
		}
	case "type.googleapis.com/google.rpc.RetryInfo":
		info := &rpc.RetryInfo{}
		if proto.Unmarshal(detail.Value, info) == nil {
			e.RetryAfter = info.GetRetryDelay().AsDuration()
		}
	case "type.googleapis.com/google.rpc.BadRequest":
		request := &rpc.BadRequest{}
		if proto.Unmarshal(detail.Value, request) == nil && len(request.FieldViolations) > 0 {
			e.Field = request.FieldViolations[0].GetField()
		}
	}
}

// errorFromCall returns the error of a failed call. The status of grpc is copied field by field, because its type
// depends on the version of grpc.
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
