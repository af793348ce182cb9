"""Reading and writing the messages that carry data, without copies by protobuf's library."""
