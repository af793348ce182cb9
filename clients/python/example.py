"""Embed an image, embed a stream, and handle an error by its reason. Arguments: ADDRESS BACKBONE IMAGE."""

# ruff: noqa: T201 - a program that prints

from __future__ import annotations

import sys
from pathlib import Path

from midrib.remote import Client
from midrib.wire import MidribError


def main(
    address: str = "127.0.0.1:50051",
    backbone: str = "image/classification/efficientnet-lite0",
    path: str = "image.png",
) -> None:
    """Print the same three lines as the example of every other client."""
    image = Path(path).read_bytes()
    with Client(address) as client:
        features = client.embed(backbone, images=[image])
        print(f"embedding: {features.size} features of revision {client.describe(backbone).revision[:12]}")

        batches = client.embed_stream(backbone, ([image] for _ in range(8)), kind="images")
        print(f"stream: {sum(len(batch) for batch in batches)} embeddings")

        try:
            client.embed("no/such/backbone", images=[image])
        except MidribError as error:
            if error.reason != "BACKBONE_NOT_FOUND":
                raise
            print(f"refused: {error.reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
