"""Train a head here on a backbone that runs on a server. A local backbone would differ in its name only.

midrib serve image/classification/efficientnet-lite0               # in another terminal, or on the machine with the GPU
python examples/head_on_remote_backbone.py [grpc://HOST:50051/image/classification/efficientnet-lite0]
"""

# ruff: noqa: T201 - a program that prints

from __future__ import annotations

import random
import sys

import torch
from PIL import Image, ImageDraw
from pytorch_lightning import Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset

from midrib.task import ClassificationTask

CORNERS = {"triangle": 3, "square": 4, "disc": 60}
SHAPES = list(CORNERS)


def drawing(shape: str) -> Image.Image:
    """Return a picture of the shape, with a random place, size, colour and rotation."""
    picture = Image.new("RGB", (224, 224), "white")
    colour = tuple(random.randrange(200) for _ in range(3))  # noqa: S311 - a picture, not a secret
    centre_and_radius = (random.randint(70, 150), random.randint(70, 150), random.randint(30, 60))  # noqa: S311
    degrees = random.randrange(360)  # noqa: S311
    ImageDraw.Draw(picture).regular_polygon(centre_and_radius, CORNERS[shape], rotation=degrees, fill=colour)
    return picture


def main(url: str = "grpc://127.0.0.1:50051/image/classification/efficientnet-lite0") -> None:
    """Train the head, and print how many new drawings it recognises."""
    seed_everything(0, verbose=False)
    task = ClassificationTask(backbone=url, labels=SHAPES, learning_rate=0.01)
    images = task.prepare([drawing(shape) for shape in SHAPES * 8])  # [24, 3, 224, 224], as the backbone takes them
    targets = torch.arange(3).repeat(8)
    loader = DataLoader(TensorDataset(images, targets), batch_size=8, shuffle=True)
    Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False).fit(task, loader)
    predicted = task.predict([drawing(shape) for shape in SHAPES * 4], output="labels")
    right = sum(map(str.__eq__, predicted, SHAPES * 4))
    print(f"{right} of {len(predicted)} new drawings recognised")


if __name__ == "__main__":
    main(*sys.argv[1:])
