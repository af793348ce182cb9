// An image in, its embedding out; a stream; an error handled by its reason.
//
//	example ADDRESS BACKBONE IMAGE
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"

	midrib "midrib.example/clients/go"
	pb "midrib.example/clients/go/v1"
)

func main() {
	arguments := append(os.Args[1:], "127.0.0.1:50051", "image/classification/efficientnet-lite0", "image.png")
	if len(os.Args) == 4 {
		arguments = os.Args[1:]
	}
	if err := run(arguments[0], arguments[1], arguments[2]); err != nil {
		log.Fatal(err)
	}
}

func run(address, backbone, path string) error {
	client, err := midrib.Dial(address, grpc.WithInsecure())
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	image, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	rows, err := client.EmbedImages(ctx, backbone, image)
	if err != nil {
		return err
	}
	served, err := client.Describe(ctx, backbone)
	if err != nil {
		return err
	}
	fmt.Printf("embedding: %d features of revision %s\n", len(rows[0]), served.Revision[:12])

	if err := stream(ctx, client, backbone, midrib.Images(image)); err != nil {
		return err
	}

	_, err = client.EmbedTexts(ctx, "no/such/backbone", "a text")
	if midrib.Reason(err) != "BACKBONE_NOT_FOUND" {
		return fmt.Errorf("expected a refusal, got %v", err)
	}
	fmt.Println("refused:", midrib.Reason(err))
	return nil
}

func stream(ctx context.Context, client *midrib.Client, backbone string, input *pb.Input) error {
	inputs := make(chan *pb.Input, 8)
	for i := 0; i < cap(inputs); i++ {
		inputs <- input
	}
	close(inputs)
	embedded := 0
	err := client.EmbedStream(ctx, &pb.Open{Backbone: backbone}, inputs, func(result midrib.Result) error {
		embedded++
		return result.Err
	})
	fmt.Printf("stream: %d embeddings\n", embedded)
	return err
}
