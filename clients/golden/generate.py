"""Record the golden vectors of a release: `python -m clients.golden.generate 0.2.0` writes protos/golden/0.2.0/.

They are written once: they are the bytes that the release's clients and servers sent, so they must never change.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.rpc.code_pb2 import UNAVAILABLE
from google.rpc.status_pb2 import Status

from clients.golden.calls import embeddings, gradients, refusals
from clients.golden.messages import messages
from clients.golden.tensors import SCALED, SCALED_NUMBERS, tensors
from midrib.v1.tensor_pb2 import Tensor
from midrib.wire import (
    Array,
    InvalidInputError,
    MidribError,
    OverloadedError,
    RevisionMismatchError,
    encode_tensor,
    error_to_status,
)

DIRECTORY = Path(__file__).parents[2] / "protos" / "golden"

_ERRORS = {
    "reason": RevisionMismatchError("connect again"),
    "field": InvalidInputError("the shape is negative", field="input.tensor.shape"),
    "retry": OverloadedError("4096 waiting, limit 4096", retry_after=0.25),
}


def files() -> dict[str, list[tuple[str, ...]]]:
    """Return every file of a release: its name, and its rows of columns."""
    return {
        "messages.tsv": [
            (name, message.DESCRIPTOR.full_name, _json(message), _hex(message)) for name, message in messages()
        ],
        "tensors.tsv": [
            *((name, array.dtype.name, *_numbers(array), _tensor(array)) for name, array in tensors()),
            ("int8 with scales", "int8", *_numbers(SCALED_NUMBERS), _tensor(SCALED)),
        ],
        "statuses.tsv": [*((name, *_status(error)) for name, error in _ERRORS.items()), _WITHOUT_DETAILS],
        "embeddings.tsv": [(name, _hex(request), _tensor(want)) for name, request, want in embeddings()],
        "gradients.tsv": [(name, _hex(request), _tensor(want)) for name, request, want in gradients()],
        "refusals.tsv": [(name, _hex(request), str(want.code), want.reason) for name, request, want in refusals()],
    }


def read(release: Path, name: str) -> Iterator[list[str]]:
    """Yield the rows of one file of a release."""
    for line in (release / name).read_text(encoding="utf-8").splitlines():
        yield line.split("\t")


def write(release: Path) -> None:
    """Write a release's files. Raises FileExistsError if it has been recorded."""
    release.mkdir(parents=True)
    for name, rows in files().items():
        text = "".join("\t".join(columns) + "\n" for columns in rows)
        (release / name).write_text(text, encoding="utf-8")


def _hex(message: Message) -> str:
    return message.SerializeToString(deterministic=True).hex()


def _json(message: Message) -> str:
    return MessageToJson(message, indent=None, sort_keys=True, ensure_ascii=True)


def _tensor(rows: Array | Tensor) -> str:
    return _hex(rows if isinstance(rows, Tensor) else encode_tensor(rows))


def _numbers(array: Array) -> tuple[str, str]:
    shape = ",".join(map(str, array.shape))
    # repr of a float64 is exact; no case has an int64 that float64 cannot hold.
    numbers = [repr(float(number)) for number in array.astype("float64").reshape(-1)]
    spelt = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
    return shape, " ".join(spelt.get(number, number) for number in numbers)


def _status(error: MidribError) -> tuple[str, ...]:
    status: Status = error_to_status(error)
    retry = "" if error.retry_after is None else str(error.retry_after)
    return str(error.code), error.reason, error.field or "", retry, error.message, _hex(status)


# As of a proxy, or of gRPC itself: the reason is the name of the code.
_WITHOUT_DETAILS = (
    "without details",
    str(UNAVAILABLE),
    "UNAVAILABLE",
    "",
    "",
    "no server",
    _hex(Status(code=UNAVAILABLE, message="no server")),
)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", help="such as 0.1.0")
    write(DIRECTORY / parser.parse_args().release)
