"""One batch of rows, [rows, ...], through one device to [rows, num_features]: here the module computes."""
