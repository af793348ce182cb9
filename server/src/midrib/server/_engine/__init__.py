"""From queued items, [rows, ...], to outcomes, [rows, num_features]: queue, batches, replicas; no torch, no grpc."""
