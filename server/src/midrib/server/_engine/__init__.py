"""From queued items to outcomes: batching, feeding and replicas, on asyncio, without torch and grpc."""
