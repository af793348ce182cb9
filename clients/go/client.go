// Package midrib talks to a Midrib server: images, texts or tensors in, embeddings out.
package midrib

import (
	"context"
	"io"

	pb "midrib.example/clients/go/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

const maxMessageBytes = 64 << 20

// Client talks to one server. It may be used by many goroutines.
type Client struct {
	connection *grpc.ClientConn
	backbones  pb.BackboneServiceClient
	embeddings pb.EmbeddingServiceClient
}

// Dial opens a client of the server at "host:port". The options are grpc's: WithInsecure() or credentials are needed.
func Dial(address string, options ...grpc.DialOption) (*Client, error) {
	calls := grpc.WithDefaultCallOptions(
		grpc.ForceCodec(codec{}), grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes))
	connection, err := grpc.Dial(address, append(options, calls)...)
	if err != nil {
		return nil, err
	}
	return &Client{
		connection: connection,
		backbones:  pb.NewBackboneServiceClient(connection),
		embeddings: pb.NewEmbeddingServiceClient(connection),
	}, nil
}

// Token returns the option of Dial that sends a token with every call. grpc sends it over TLS only.
func Token(secret string) grpc.DialOption { return grpc.WithPerRPCCredentials(bearer(secret)) }

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (b bearer) RequireTransportSecurity() bool { return true }

// Close closes the connection.
func (c *Client) Close() error { return c.connection.Close() }

// Describe returns the server's description of a backbone.
func (c *Client) Describe(ctx context.Context, name string) (*pb.Backbone, error) {
	response, err := c.backbones.GetBackbone(ctx, &pb.GetBackboneRequest{Name: name})
	return response.GetBackbone(), errorFromCall(err)
}

// Embed embeds one batch.
func (c *Client) Embed(ctx context.Context, request *pb.EmbedRequest) (*pb.EmbedResponse, error) {
	response, err := c.embeddings.Embed(ctx, request)
	return response, errorFromCall(err)
}

// Backward returns the gradient of an input, given the gradient of its embedding.
func (c *Client) Backward(ctx context.Context, request *pb.BackwardRequest) (*pb.BackwardResponse, error) {
	response, err := c.embeddings.Backward(ctx, request)
	return response, errorFromCall(err)
}

// Result is the outcome of one input of a stream: its place among the inputs, and an embedding or its error.
type Result struct {
	Index     uint64
	Embedding *pb.Tensor
	Err       error
}

// EmbedStream embeds inputs until their channel is closed, and calls each with every result as soon as it is ready,
// not in order. It stops when each returns an error, and returns that error. A server that drains answers the inputs
// that it has read, and then the error is UNAVAILABLE: send the inputs without a result again.
//
// After an error, inputs is not read any more: the goroutine that fills it must select on ctx.Done() as well, and the
// caller cancels ctx on return.
func (c *Client) EmbedStream(
	ctx context.Context, open *pb.Open, inputs <-chan *pb.Input, each func(Result) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.embeddings.EmbedStream(ctx)
	if err != nil {
		return errorFromCall(err)
	}
	go send(stream, open, inputs)
	var goodbye error
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return goodbye
		}
		if err != nil {
			return errorFromCall(err)
		}
		if leaving := response.GetGoAway(); leaving != nil {
			goodbye = &Error{Code: codes.Unavailable, Reason: "UNAVAILABLE", Message: leaving.GetReason()}
		}
		if result := response.GetResult(); result != nil {
			if err := each(resultOf(result)); err != nil {
				return err
			}
		}
	}
}

// send feeds a stream as fast as the server reads it; its errors are the reader's to see.
func send(stream pb.EmbeddingService_EmbedStreamClient, open *pb.Open, inputs <-chan *pb.Input) {
	defer stream.CloseSend()
	first := &pb.EmbedStreamRequest{Message: &pb.EmbedStreamRequest_Open{Open: open}}
	if stream.Send(first) != nil {
		return
	}
	for id := uint64(0); ; id++ {
		select {
		case <-stream.Context().Done():
			return
		case input, more := <-inputs:
			if !more {
				return
			}
			item := &pb.EmbedStreamRequest_Item{Item: &pb.Item{Id: id, Input: input}}
			if stream.Send(&pb.EmbedStreamRequest{Message: item}) != nil {
				return
			}
		}
	}
}

func resultOf(result *pb.Result) Result {
	if embedding := result.GetEmbedding(); embedding != nil {
		return Result{Index: result.GetId(), Embedding: embedding}
	}
	return Result{Index: result.GetId(), Err: ErrorFromStatus(result.GetError())}
}
