"""A client without protos: it asks the server's reflection. It runs `buf curl`.

`python -m clients.generic.conformance ADDRESS RELEASE_DIRECTORY`.

Reads and writes every message's JSON form, so base64 and names of enums take the place of bytes and numbers.
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
# gRPC's numbers of the status codes that buf names by words.
_CODES = {"invalid_argument": 3, "not_found": 5, "resource_exhausted": 8, "failed_precondition": 9}


class Curl:
    """Calls a method by its name, with messages as JSON."""

    def __init__(self, buf: str, address: str) -> None:
        self._command = [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", "@-"]
        self._url = f"http://{address}/{SERVICE}"

    def call(self, method: str, *messages: Any) -> subprocess.CompletedProcess[str]:
        """The finished process: answers on stdout, an error on stderr, both as JSON."""
        sent = "\n".join(json.dumps(message) for message in messages)
        command = [*self._command, f"{self._url}/{method}"]
        return subprocess.run(command, input=sent, capture_output=True, text=True, timeout=60, check=False)

    def answers(self, method: str, *messages: Any) -> list[Any]:
        """The answers. Raises RuntimeError with what the server said instead."""
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
    """The server's answers, to the bit."""
    for name, asked, want in read(release, "embeddings.tsv"):
        yield Check(f"embeddings: {name}", partial(_tensor, curl, "Embed", EmbedRequest, asked), want)
    for name, asked, want in read(release, "gradients.tsv"):
        yield Check(f"gradients: {name}", partial(_tensor, curl, "Backward", BackwardRequest, asked), want)
    for name, asked, code, reason in read(release, "refusals.tsv"):
        yield Check(f"refusals: {name}", partial(_refusal, curl, asked), (int(code), reason))
    inputs, want_all = stream_items(release)
    yield Check("stream", partial(_stream, curl, inputs), want_all)


def _tensor(curl: Curl, method: str, kind: type[Message], asked: str) -> str:
    (answer,) = curl.answers(method, _json(kind, asked))
    return _hex(answer["embedding" if method == "Embed" else "gradInput"])


def _refusal(curl: Curl, asked: str) -> tuple[int, str]:
    error = json.loads(curl.call("Embed", _json(EmbedRequest, asked)).stderr)
    values = [detail["value"] for detail in error["details"] if detail["type"] == ErrorInfo.DESCRIPTOR.full_name]
    info = ErrorInfo.FromString(base64.b64decode(values[0] + "=="))  # buf leaves the padding out
    return _CODES[error["code"]], info.reason


def _stream(curl: Curl, inputs: list[Input]) -> list[str]:
    items = [{"item": {"id": str(index), "input": MessageToDict(one)}} for index, one in enumerate(inputs)]
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


def _json(kind: type[Message], asked: str) -> Any:
    return MessageToDict(kind.FromString(bytes.fromhex(asked)))


def _hex(answer: dict[str, Any]) -> str:
    return ParseDict(answer, Tensor()).SerializeToString(deterministic=True).hex()


def main(address: str, release: str) -> bool:
    """Every check; whether all passed."""
    script = Path(__file__).parents[2] / "build-support" / "clients-buf"
    where = subprocess.run([script, "--where"], capture_output=True, text=True, check=True)
    return report(checks(Curl(where.stdout.strip(), address), Path(release)))


if __name__ == "__main__":
    sys.exit(not main(*sys.argv[1:]))
