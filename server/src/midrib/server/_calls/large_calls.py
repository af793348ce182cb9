"""One call with more rows than an item may have: computed as several items, answered as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from midrib.server._calls.embedder import Embedded, Embedder
from midrib.server._calls.requests import Caller, open_backbone
from midrib.server._intake.media import join_padded, media_of
from midrib.v1 import embedding_pb2
from midrib.wire import LimitExceededError, decode_tensor, encode_tensor


async def embed_in_parts(
    embedder: Embedder, request: embedding_pb2.EmbedRequest, caller: Caller, *, max_rows: int
) -> tuple[Embedded, Callable[[], None]]:
    """Return the embedding of up to `max_rows` rows, and the function to call once the answer is written.

    The parts are computed one after the other. Each of them holds the bytes of an item, and only the first is refused
    if the quota is full: further parts wait. The last one holds its bytes until the answer is written.
    Raises LimitExceededError for more rows, and what `Embedder.embed` raises.
    """
    intake = open_backbone(embedder.catalogue, request).intake
    rows = _rows_of(request.input)
    if rows > max_rows:
        raise LimitExceededError(f"the call has {rows} rows, at most {max_rows} are taken: split it", field="input")
    results: list[Embedded] = []
    release: Callable[[], None] = _nothing
    for part in _parts(request.input, intake.max_rows):
        release()
        part_request = embedding_pb2.EmbedRequest(backbone=request.backbone, input=part, options=request.options)
        if request.HasField("revision"):
            part_request.revision = request.revision
        embedded, reservation = await embedder.embed_held(part_request, caller)
        results.append(embedded)
        release = reservation.release
        caller = caller._replace(waits_for_room=True)
    return _joined(results), release


def _nothing() -> None:
    """Release no bytes: no part was computed before the first."""


def _rows_of(message: embedding_pb2.Input) -> int:
    """Return the number of rows of an input; 0 for a scalar tensor, which the intake refuses."""
    if message.WhichOneof("kind") == "tensor":
        return message.tensor.shape[0] if message.tensor.shape else 0
    return len(media_of(message))


def _parts(message: embedding_pb2.Input, max_rows: int) -> Iterator[embedding_pb2.Input]:
    """Yield inputs of at most `max_rows` rows each; the input itself if it has no more."""
    if _rows_of(message) <= max_rows:
        yield message
        return
    array = decode_tensor(message.tensor, field="input.tensor") if message.WhichOneof("kind") == "tensor" else None
    for start in range(0, _rows_of(message), max_rows):
        rows = slice(start, start + max_rows)
        if array is not None:
            yield embedding_pb2.Input(tensor=encode_tensor(array[rows]))
        elif message.WhichOneof("kind") == "texts":
            yield embedding_pb2.Input(texts=embedding_pb2.Texts(texts=message.texts.texts[rows]))
        elif message.WhichOneof("kind") == "images":
            yield embedding_pb2.Input(images=embedding_pb2.Images(encoded=message.images.encoded[rows]))
        else:
            clips = embedding_pb2.AudioClips(clips=message.audio.clips[rows], rate=message.audio.rate)
            yield embedding_pb2.Input(audio=clips)


def _joined(results: list[Embedded]) -> Embedded:
    if len(results) == 1:
        return results[0]
    timing = embedding_pb2.Timing()
    for name in ("queue", "compute", "total"):
        seconds = [getattr(result.timing, name).ToTimedelta() for result in results]
        getattr(timing, name).FromTimedelta(sum(seconds[1:], seconds[0]))
    inputs = join_padded([result.inputs for result in results])
    features = np.concatenate([result.features for result in results])
    return results[-1]._replace(inputs=inputs, features=features, timing=timing)
