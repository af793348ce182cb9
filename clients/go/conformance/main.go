// The checks that every client must pass (docs/clients.md): conformance ADDRESS RELEASE_DIRECTORY
package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	midrib "midrib.example/clients/go"
	"midrib.example/clients/go/rpc"
	pb "midrib.example/clients/go/v1"
)

const streamed = "golden/embedding/tensor"

// suite runs checks against one server and one release's files.
type suite struct {
	ctx     context.Context
	client  *midrib.Client
	release string
	failed  bool
}

func (s *suite) check(name, want, got string, err error) {
	if err != nil {
		got = err.Error()
	}
	if got == want {
		fmt.Println("ok", name)
		return
	}
	s.failed = true
	fmt.Printf("not ok %s - got %s, expected %s\n", name, got, want)
}

func (s *suite) rows(file string) [][]string {
	text, err := os.ReadFile(filepath.Join(s.release, file))
	if err != nil {
		log.Fatal(err)
	}
	var rows [][]string
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		rows = append(rows, strings.Split(line, "\t"))
	}
	return rows
}

func (s *suite) messages() {
	for _, row := range s.rows("messages.tsv") {
		got, err := again(row[1], row[3])
		s.check("messages: "+row[0], row[3], got, err)
	}
}

// again reads a message and writes it again. protobuf promises no order of fields, and Go puts those of a oneof last:
// where the bytes differ in that way only, the answer is the recorded ones.
func again(name, recorded string) (string, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		return "", err
	}
	message := kind.New().Interface()
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(unhex(recorded), message); err != nil {
		return "", err
	}
	written, reread := encoded(message), kind.New().Interface()
	if err := proto.Unmarshal(unhex(written), reread); err != nil {
		return "", err
	}
	if len(written) == len(recorded) && proto.Equal(message, reread) {
		return recorded, nil
	}
	return written, nil
}

func (s *suite) tensors() {
	for _, row := range s.rows("tensors.tsv") {
		got, err := tensorAgain(row[1], row[2], strings.Fields(row[3]), row[4])
		s.check("tensors: "+row[0], row[4], got, err)
	}
}

// tensorAgain compares a tensor's numbers with the expected ones, and writes it again from those.
func tensorAgain(dtype, shape string, want []string, recorded string) (string, error) {
	tensor := &pb.Tensor{}
	if err := proto.Unmarshal(unhex(recorded), tensor); err != nil {
		return "", err
	}
	numbers, err := midrib.Numbers(tensor)
	if err != nil {
		return "", err
	}
	sizes := strings.ReplaceAll(strings.Trim(fmt.Sprint(tensor.Shape), "[]"), " ", ",")
	if name := strings.ToLower(tensor.Dtype.String()[len("DATA_TYPE_"):]); name != dtype || sizes != shape {
		return "", fmt.Errorf("%s of shape %s", name, sizes)
	}
	if len(numbers) != len(want) {
		return "", fmt.Errorf("%d numbers", len(numbers))
	}
	singles, integers := make([]float32, len(want)), make([]int64, len(want))
	for i, text := range want {
		number, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return "", err
		}
		same := number == numbers[i] && math.Signbit(number) == math.Signbit(numbers[i])
		if !same && !(math.IsNaN(number) && math.IsNaN(numbers[i])) {
			return "", fmt.Errorf("number %d is %v, expected %s", i, numbers[i], text)
		}
		singles[i], integers[i] = float32(number), int64(number)
	}
	switch dtype {
	case "float32":
		tensor, err = midrib.Floats(singles, tensor.Shape...)
	case "int64":
		tensor, err = midrib.Integers(integers, tensor.Shape...)
	}
	return encoded(tensor), err
}

func (s *suite) statuses() {
	for _, row := range s.rows("statuses.tsv") {
		status := &rpc.Status{}
		err := proto.Unmarshal(unhex(row[6]), status)
		refused := midrib.ErrorFromStatus(status)
		retry := ""
		if refused.RetryAfter != 0 {
			retry = fmt.Sprint(refused.RetryAfter.Seconds())
		}
		got := []string{fmt.Sprint(int(refused.Code)), refused.Reason, refused.Field, retry, refused.Message}
		s.check("statuses: "+row[0], strings.Join(row[1:6], " "), strings.Join(got, " "), err)
	}
}

func (s *suite) embeddings() {
	for _, row := range s.rows("embeddings.tsv") {
		response, err := s.client.Embed(s.ctx, embedRequest(row[1]))
		s.check("embeddings: "+row[0], row[2], encoded(response.GetEmbedding()), err)
	}
}

func (s *suite) gradients() {
	for _, row := range s.rows("gradients.tsv") {
		request := &pb.BackwardRequest{}
		if err := proto.Unmarshal(unhex(row[1]), request); err != nil {
			log.Fatal(err)
		}
		response, err := s.client.Backward(s.ctx, request)
		s.check("gradients: "+row[0], row[2], encoded(response.GetGradInput()), err)
	}
}

func (s *suite) refusals() {
	for _, row := range s.rows("refusals.tsv") {
		_, err := s.client.Embed(s.ctx, embedRequest(row[1]))
		got := "accepted"
		var refused *midrib.Error
		if errors.As(err, &refused) {
			got = fmt.Sprint(int(refused.Code), " ", refused.Reason)
		}
		s.check("refusals: "+row[0], row[2]+" "+row[3], got, nil)
	}
}

func (s *suite) stream() {
	var want []string
	inputs := make(chan *pb.Input, 100)
	for _, row := range s.rows("embeddings.tsv") {
		if request := embedRequest(row[1]); request.Backbone == streamed && request.Options == nil {
			inputs <- request.Input
			want = append(want, row[2])
		}
	}
	inputs <- &pb.Input{}
	want = append(want, "INVALID_INPUT")
	close(inputs)
	got := make([]string, len(want))
	err := s.client.EmbedStream(s.ctx, &pb.Open{Backbone: streamed}, inputs, func(result midrib.Result) error {
		got[result.Index] = midrib.Reason(result.Err)
		if result.Err == nil {
			got[result.Index] = encoded(result.Embedding)
		}
		return nil
	})
	s.check("stream", strings.Join(want, " "), strings.Join(got, " "), err)
}

func embedRequest(recorded string) *pb.EmbedRequest {
	request := &pb.EmbedRequest{}
	if err := proto.Unmarshal(unhex(recorded), request); err != nil {
		log.Fatal(err)
	}
	return request
}

func unhex(recorded string) []byte {
	data, err := hex.DecodeString(recorded)
	if err != nil {
		log.Fatal(err)
	}
	return data
}

func encoded(message proto.Message) string {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		log.Fatal(err)
	}
	return hex.EncodeToString(data)
}

func main() {
	client, err := midrib.Dial(os.Args[1], grpc.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := &suite{ctx: ctx, client: client, release: os.Args[2]}
	s.messages()
	s.tensors()
	s.statuses()
	s.embeddings()
	s.gradients()
	s.refusals()
	s.stream()
	if s.failed {
		os.Exit(1)
	}
}
