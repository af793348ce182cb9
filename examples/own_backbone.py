"""Register your backbone, check that it keeps the contract, and train a head on it by its name.

python examples/own_backbone.py
midrib serve example/spectrum --import own_backbone    # in this folder: the same backbone, for all your clients
"""

# ruff: noqa: T201 - a program that prints

from __future__ import annotations

import torch
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.backbones import BACKBONES
from midrib.backbones.testing import assert_conforms
from midrib.registry import TensorInput
from midrib.task import ClassificationTask

SAMPLES = 64


class Spectrum(nn.Module):
    """The amplitude of each frequency of a signal, which does not depend on the phase."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands

    def forward(self, signals: Tensor) -> Tensor:
        """Return [batch, bands] of signals [batch, SAMPLES]."""
        amplitudes: Tensor = torch.fft.rfft(signals).abs()
        return amplitudes[:, 1 : 1 + self.bands] / SAMPLES


@BACKBONES(name="spectrum", namespace="example", input=TensorInput((SAMPLES,)), license="Apache-2.0")
def load_spectrum(bands: int = 16) -> tuple[nn.Module, int]:
    """Return the module and the width of its rows, as every loader does."""
    return Spectrum(bands), bands


def waves(rows: int) -> TensorDataset:
    """Return slow (2 to 5 periods, label 0) and fast (8 to 11, label 1) sine waves at random phases."""
    labels = torch.arange(rows) % 2
    periods = torch.randint(2, 6, (rows,)) + 6 * labels
    times = torch.arange(SAMPLES) / SAMPLES
    return TensorDataset(torch.sin(2 * torch.pi * (periods[:, None] * times + torch.rand(rows, 1))), labels)


def main() -> None:
    """Train a head that tells slow waves from fast ones, and print its accuracy."""
    seed_everything(0, verbose=False)
    assert_conforms("example/spectrum")
    task = ClassificationTask(backbone="example/spectrum", labels=["slow", "fast"], learning_rate=0.1)
    trainer = Trainer(max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(task, DataLoader(waves(256), batch_size=32))
    (result,) = trainer.test(task, DataLoader(waves(256), batch_size=32), verbose=False)
    print(f"test accuracy {result['test_accuracy']:.3f}")


if __name__ == "__main__":
    main()
