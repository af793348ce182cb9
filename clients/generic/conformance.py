"""Run the conformance checks without protos: `buf curl` reads them from the server's reflection service.

`python -m clients.generic.conformance ADDRESS RELEASE_DIRECTORY`.

Messages are read and written as JSON, so bytes are in base64 and enums are names.
"""

# ruff: noqa: S603 - it runs our own programs

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo

from clients.golden.generate import read
from clients.python.conformance import STREAMED, stream_items
from clients.python.report import Check, report
from midrib.v1.embedding_pb2 import BackwardRequest, EmbedRequest, Input
from midrib.v1.tensor_pb2 import Tensor

SERVICE: Final = "midrib.v1.EmbeddingService"
# gRPC's numbers for the status codes that buf prints as words.
_CODES = {"invalid_argument": 3, "not_found": 5, "resource_exhausted": 8, "failed_precondition": 9}


class Curl:
    """Call methods by name, with messages as JSON."""

    def __init__(self, buf: str, address: str) -> None:
        self._command = [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", "@-"]
        self._url = f"http://{address}/{SERVICE}"

    def call(self, method: str, *messages: Any) -> subprocess.CompletedProcess[str]:
        """Return the finished process: answers on stdout, an error on stderr, both as JSON."""
        lines = "\n".join(json.dumps(message) for message in messages)
        command = [*self._command, f"{self._url}/{method}"]
        return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, check=False)

    def answers(self, method: str, *messages: Any) -> list[Any]:
        """Return the answers. Raises RuntimeError with the server's error."""
        done = self.call(method, *messages)
        if done.returncode:
            raise RuntimeError(done.stderr)
        decoder, text, answers = json.JSONDecoder(), done.stdout.strip(), []
        while text:
            answer, end = decoder.raw_decode(text)
            answers.append(answer)
            text = text[end:].lstrip()
        return answers


def checks(curl: Curl, release: Path) -> Iterator[Check]:
    """Yield the checks of the server's answers, bit by bit."""
    for name, request, want in read(release, "embeddings.tsv"):
        yield Check(f"embeddings: {name}", partial(_tensor, curl, "Embed", EmbedRequest, request), want)
    for name, request, want in read(release, "gradients.tsv"):
        yield Check(f"gradients: {name}", partial(_tensor, curl, "Backward", BackwardRequest, request), want)
    for name, request, code, reason in read(release, "refusals.tsv"):
        yield Check(f"refusals: {name}", partial(_refusal, curl, request), (int(code), reason))
    inputs, want_all = stream_items(release)
    yield Check("stream", partial(_stream, curl, inputs), want_all)


def _tensor(curl: Curl, method: str, kind: type[Message], request: str) -> str:
    (answer,) = curl.answers(method, _json(kind, request))
    return _hex(answer["embedding" if method == "Embed" else "gradInput"])


def _refusal(curl: Curl, request: str) -> tuple[int, str]:
    error = json.loads(curl.call("Embed", _json(EmbedRequest, request)).stderr)
    values = [detail["value"] for detail in error["details"] if detail["type"] == ErrorInfo.DESCRIPTOR.full_name]
    info = ErrorInfo.FromString(base64.b64decode(values[0] + "=="))  # buf omits the padding
    return _CODES[error["code"]], info.reason


def _stream(curl: Curl, inputs: list[Input]) -> list[str]:
    items = [{"item": {"id": str(index), "input": MessageToDict(message)}} for index, message in enumerate(inputs)]
    outcomes: dict[int, str] = {}
    for answer in curl.answers("EmbedStream", {"open": {"backbone": STREAMED}}, *items):
        if result := answer.get("result"):
            outcomes[int(result.get("id", 0))] = _outcome(result)
    return [outcomes[index] for index in range(len(inputs))]


def _outcome(result: dict[str, Any]) -> str:
    if "embedding" in result:
        return _hex(result["embedding"])
    reason: str = result["error"]["details"][0]["reason"]
    return reason


def _json(kind: type[Message], request: str) -> Any:
    return MessageToDict(kind.FromString(bytes.fromhex(request)))


def _hex(answer: dict[str, Any]) -> str:
    return ParseDict(answer, Tensor()).SerializeToString(deterministic=True).hex()


def main(address: str, release: str) -> bool:
    """Run every check, and return whether all passed."""
    script = Path(__file__).parents[2] / "build-support" / "clients-buf"
    where = subprocess.run([script, "--where"], capture_output=True, text=True, check=True)
    return report(checks(Curl(where.stdout.strip(), address), Path(release)))


if __name__ == "__main__":
    sys.exit(not main(*sys.argv[1:]))
