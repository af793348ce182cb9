package midrib

import "google.golang.org/protobuf/proto"

// codec writes messages of the current protobuf API: grpc before 1.35 (Debian 12 has 1.33) supports only the older one.
// It is set per client and not registered globally, so it does not affect other connections of a program.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(message interface{}) ([]byte, error) {
	return proto.Marshal(message.(proto.Message))
}

func (codec) Unmarshal(data []byte, message interface{}) error {
	return proto.Unmarshal(data, message.(proto.Message))
}
