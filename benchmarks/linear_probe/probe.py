"""How good a backbone is: linear classifiers on its features and on raw inputs, with real data.

    python benchmarks/linear_probe/probe.py DATA

prints the table of README.md, which describes DATA.
"""

from __future__ import annotations

import sys
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import skimage.data
import torch
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped] # it has no types
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped] # it has no types
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped] # it has no types
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped] # it has no types

from midrib.backbones import load_backbone

Features: TypeAlias = npt.NDArray[np.float32]
BATCH = 32


@dataclass(frozen=True)
class Task:
    """Inputs and their classes, split so that the test shares nothing with the training."""

    name: str
    train: list[Any]
    train_labels: list[int]
    test: list[Any]
    test_labels: list[int]


def textures() -> Task:
    """Brick, grass or gravel in 64-pixel patches: the left half of each picture trains, the right half tests."""
    train: list[Any] = []
    test: list[Any] = []
    for label, name in enumerate(("brick", "grass", "gravel")):
        picture = getattr(skimage.data, name)()
        for top in range(0, 512, 64):
            for left in range(0, 512, 64):
                half = train if left < 256 else test
                half.append((picture[top : top + 64, left : left + 64], label))
    return _task("textures, 3 classes", train, test)


def few(task: Task, per_class: int) -> Task:
    """Return the task with `per_class` training examples of each class, spread evenly, and the same test."""
    chosen: list[Any] = []
    for label in sorted(set(task.train_labels)):
        items = [item for item, item_label in zip(task.train, task.train_labels, strict=True) if item_label == label]
        chosen += [(item, label) for item in items[:: len(items) // per_class][:per_class]]
    test = list(zip(task.test, task.test_labels, strict=True))
    return _task(f"{task.name}, {per_class} of each", chosen, test)


def glosses(folder: Path) -> Task:
    """Return the task to map WordNet's definitions of nouns to their 25 lexicographer files: 500 train, 1500 test."""
    lines = (folder / "package/dict/data.noun").read_text().splitlines()
    # Field 2 is the file: 3 is the top of the hierarchy, and 4 to 28 are kinds of things. A licence comes first.
    nouns = [(line, int(line.split()[1])) for line in lines if not line.startswith(" ")]
    rows = [(line.split("|", 1)[1].split(";")[0].strip(), file - 4) for line, file in nouns if file != 3]
    order = np.random.default_rng(0).permutation(len(rows))
    chosen = [rows[place] for place in order[:2000]]
    return _task("WordNet glosses, 25 classes", chosen[:500], chosen[500:])


def voices(folder: Path) -> Task:
    """Return the task to recognise five announcers of five languages: 5 clips each train, other sentences test."""
    train: list[Any] = []
    test: list[Any] = []
    announcers = sorted(path for path in folder.rglob("*_*_?_*") if path.is_dir())
    for label, announcer in enumerate(announcers):
        clips = [_clip(path) for path in sorted(announcer.glob("*.wav"))]
        spoken = [clip for clip in clips if 8000 <= len(clip) <= 40000][:65]
        train += [(clip, label) for clip in spoken[:5]]
        test += [(clip, label) for clip in spoken[5:]]
    return _task(f"announcers, {len(announcers)} classes, 5 clips of each", train, test)


def _clip(path: Path) -> npt.NDArray[np.int16]:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def _task(name: str, train: Sequence[tuple[Any, int]], test: Sequence[tuple[Any, int]]) -> Task:
    (items, labels), (test_items, test_labels) = zip(*train, strict=True), zip(*test, strict=True)
    return Task(name, list(items), list(labels), list(test_items), list(test_labels))


def raw_pixels(task: Task) -> tuple[Features, Features]:
    """Return the pixels, [items, pixels]."""
    return np.stack([p.ravel() / 255 for p in task.train]), np.stack([p.ravel() / 255 for p in task.test])


def tfidf(task: Task) -> tuple[Any, Any]:
    """Return the counts of words and word pairs, weighted by rarity."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return vectorizer.fit_transform(task.train), vectorizer.transform(task.test)


def spectrum(task: Task) -> tuple[Features, Features]:
    """Return the mean and the standard deviation of each clip's log spectrum."""
    return np.stack([_spectrum(c) for c in task.train]), np.stack([_spectrum(c) for c in task.test])


def _spectrum(clip: npt.NDArray[np.int16]) -> Features:
    samples = torch.from_numpy(clip / 32768).float()
    frames = torch.stft(samples, 200, 80, window=torch.hann_window(200), return_complex=True)
    log = torch.log(frames.abs() + 1e-4)
    return torch.cat([log.mean(1), log.std(1)]).numpy()


def embedded(key: str, **kwargs: Any) -> Callable[[Task], tuple[Features, Features]]:
    """Return a function that computes the features of a backbone, [items, num_features]."""

    def features(task: Task) -> tuple[Features, Features]:
        backbone = load_backbone(key, **kwargs)
        embeds: dict[str, Callable[[list[Any]], torch.Tensor]] = {
            "ImageInput": backbone.embed_images,
            "TextInput": backbone.embed_texts,
            "AudioInput": lambda clips: backbone.embed_audio(clips, 8000),
        }
        embed = embeds[type(backbone.input).__name__]
        batches = [
            [embed(items[start : start + BATCH]) for start in range(0, len(items), BATCH)]
            for items in (task.train, task.test)
        ]
        return torch.cat(batches[0]).numpy(), torch.cat(batches[1]).numpy()

    return features


def probe(task: Task, make: Callable[[Task], tuple[Any, Any]]) -> float:
    """Fit a logistic regression on standardised features; return its accuracy on the test."""
    train, test = make(task)
    scale = StandardScaler(with_mean=isinstance(train, np.ndarray))
    classifier = make_pipeline(scale, LogisticRegression(max_iter=2000)).fit(train, task.train_labels)
    return float(classifier.score(test, task.test_labels))


def main(folder: Path) -> None:
    """Print the table, line by line."""
    pictures = textures()
    random = "efficientnet-lite0, random weights", embedded("efficientnet-lite0", pretrained=False)
    lite = [(f"efficientnet-lite{variant}", embedded(f"efficientnet-lite{variant}")) for variant in range(3)]
    images = [("raw pixels", raw_pixels), random, *lite]
    texts = [("TF-IDF", tfidf), *((key, embedded(key)) for key in ("wordllama-256", "all-minilm-l6-v2"))]
    sounds = [("mean log spectrum", spectrum), ("resemblyzer", embedded("resemblyzer"))]
    print("| task | train / test | features | accuracy |\n| --- | --- | --- | --- |")  # noqa: T201
    for task, methods in (
        (pictures, images),
        (few(pictures, 5), images),
        (glosses(folder), texts),
        (voices(folder), sounds),
    ):
        for name, make in methods:
            torch.manual_seed(0)
            sizes = f"{len(task.train)} / {len(task.test)}"
            print(f"| {task.name} | {sizes} | {name} | {probe(task, make):.3f} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
