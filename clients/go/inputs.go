package midrib

import (
	"context"
	"fmt"

	pb "midrib.example/clients/go/v1"
)

// Texts is an input of texts, for a request or a stream.
func Texts(texts ...string) *pb.Input {
	return &pb.Input{Kind: &pb.Input_Texts{Texts: &pb.Texts{Texts: texts}}}
}

// Images is an input of encoded images, such as the bytes of PNG files.
func Images(encoded ...[]byte) *pb.Input {
	return &pb.Input{Kind: &pb.Input_Images{Images: &pb.Images{Encoded: encoded}}}
}

// EmbedTexts returns one row of features for each text.
func (c *Client) EmbedTexts(ctx context.Context, backbone string, texts ...string) ([][]float32, error) {
	return c.embedRows(ctx, backbone, Texts(texts...))
}

// EmbedImages returns one row of features for each encoded image.
func (c *Client) EmbedImages(ctx context.Context, backbone string, encoded ...[]byte) ([][]float32, error) {
	return c.embedRows(ctx, backbone, Images(encoded...))
}

func (c *Client) embedRows(ctx context.Context, backbone string, input *pb.Input) ([][]float32, error) {
	response, err := c.Embed(ctx, &pb.EmbedRequest{Backbone: backbone, Input: input})
	if err != nil {
		return nil, err
	}
	return Rows(response.Embedding)
}

// Rows reads an embedding of shape [rows, features] as one slice for each row.
func Rows(tensor *pb.Tensor) ([][]float32, error) {
	numbers, err := Numbers(tensor)
	if err != nil {
		return nil, err
	}
	if len(tensor.Shape) != 2 {
		return nil, fmt.Errorf("the tensor has shape %v, expected [rows, features]", tensor.Shape)
	}
	width := int(tensor.Shape[1])
	rows := make([][]float32, tensor.Shape[0])
	for i := range rows {
		rows[i] = make([]float32, width)
		for j := range rows[i] {
			rows[i][j] = float32(numbers[i*width+j])
		}
	}
	return rows, nil
}
