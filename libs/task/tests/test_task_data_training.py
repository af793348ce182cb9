"""Data modules in training: splits, transforms, every kind of media, and labels that stay with the task."""

from __future__ import annotations

import wave
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pytorch_lightning import Trainer
from torch import Tensor, nn

from midrib.backbones import MediaError
from midrib.registry import AudioInput, ImageInput
from midrib.task import AudioData, ClassificationTask, Clip, ImageData, TabularData, TextData
from midrib.task._data.splits import stratified_split

MakeTrainer = Callable[..., Trainer]
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0)}


class Mean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


class Loudness(nn.Module):
    def forward(self, clips: Tensor) -> Tensor:
        return clips.abs().amax(dim=1, keepdim=True)


@pytest.fixture()
def _backbones() -> Iterator[None]:
    """`mean-colour` gives the mean colours of an image on the 0..1 scale, `loudness` the largest sample of a clip."""
    with ClassificationTask.backbones.temporary() as registry:
        spec = ImageInput(8, mean=(0, 0, 0), std=(1, 1, 1), crop=1.0)
        registry(lambda: (Mean(), 3), name="mean-colour", input=spec)
        registry(lambda: (Loudness(), 1), name="loudness", input=AudioInput(8000))
        yield


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """Ten red and ten green images, of different sizes."""
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("RGB", (8 + number, 9), colour).save(tmp_path / name / f"{number}.png")
    return tmp_path


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5), share=st.floats(0.05, 0.95), seed=st.integers(0, 3))
def test_a_split_gives_each_class_its_share(sizes: list[int], share: float, seed: int) -> None:
    """Every row once; of each class the share, but at least one row trains, and one validates if it has two."""
    labels = [str(name) for name, size in enumerate(sizes) for _ in range(size)]
    training, validation = stratified_split(labels, share, seed)
    assert sorted([*training, *validation]) == list(range(len(labels)))
    counts = Counter(labels[row] for row in validation)
    assert [counts[str(name)] for name in range(len(sizes))] == [
        min(max(round(share * size), 1), size - 1) for size in sizes
    ]


def test_the_seed_decides_the_split(folder: Path) -> None:
    """The same seed gives the same rows, another one others; both have the classes' shares."""
    first, same, other = (ImageData.from_folder(folder, seed=seed).stages["val"].names for seed in (1, 1, 2))
    assert first == same
    assert first != other
    assert ImageData.from_folder(folder).counts["val"] == {"green": 2, "red": 2}


@pytest.mark.parametrize("share", [1.0, -0.1])
def test_a_share_is_between_0_and_1(share: float) -> None:
    """The error names the option."""
    with pytest.raises(ValueError, match=rf"got val_split={share}, expected"):
        stratified_split(["a", "b"], share, 0)


@pytest.mark.usefixtures("_backbones")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_folder_trains_a_head(folder: Path, trainer: MakeTrainer, tmp_path: Path, num_workers: int) -> None:
    """The classes are the folders' names, and the checkpoint keeps them."""
    data = ImageData.from_folder(folder, num_workers=num_workers)
    task = ClassificationTask.from_data("mean-colour", data, learning_rate=0.5)
    fitting = trainer(max_epochs=8, enable_checkpointing=False)
    fitting.fit(task, datamodule=data)
    assert fitting.callback_metrics["val_accuracy"] == 1
    fitting.save_checkpoint(tmp_path / "task.ckpt")
    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "task.ckpt")
    assert loaded.labels == ["green", "red"]
    assert loaded.predict([folder / "red" / "1.png"], output="labels") == ["red"]


@pytest.mark.usefixtures("_backbones")
def test_predict_takes_paths_folders_and_data_modules(folder: Path) -> None:
    """Rows come in the order of the paths."""
    task = ClassificationTask("mean-colour", labels=["a", "b"])
    paths = sorted((folder / "red").iterdir()) + sorted((folder / "green").iterdir())
    expected = [[1, 0, 0]] * 10 + [[0, 1, 0]] * 10
    np.testing.assert_allclose(task.embed(list(map(str, paths))), expected, atol=1e-6)
    np.testing.assert_allclose(task.embed(folder), expected[10:] + expected[:10], atol=1e-6)
    np.testing.assert_allclose(task.embed(str(folder / "red" / "1.png")), expected[:1], atol=1e-6)
    data = ImageData.from_files(predict=paths)
    np.testing.assert_allclose(task.embed(data), expected, atol=1e-6)


@pytest.mark.usefixtures("_backbones")
def test_predict_reads_a_table(folder: Path) -> None:
    """Its labels, if it has any, are not inputs."""
    (folder / "table.csv").write_text("image,label\nred/1.png,red\ngreen/1.png,green\n")
    task = ClassificationTask("mean-colour", labels=["a", "b"])
    np.testing.assert_allclose(task.embed(folder / "table.csv"), [[1, 0, 0], [0, 1, 0]], atol=1e-6)


@pytest.mark.usefixtures("_backbones")
def test_a_file_that_cannot_be_predicted_is_named(tmp_path: Path) -> None:
    """A broken file, a missing one, and an empty folder."""
    task = ClassificationTask("mean-colour", labels=["a", "b"])
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(MediaError, match=r"item 0: .*broken\.png: these bytes are not an image"):
        task.predict([tmp_path / "broken.png"])
    with pytest.raises(MediaError, match=r"item 0: the file 'none\.png' cannot be read \(No such file"):
        task.predict(["none.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        task.predict(tmp_path / "empty")


@pytest.mark.usefixtures("_backbones")
def test_a_transform_changes_training_images_only(folder: Path) -> None:
    """It gets uint8 [3, height, width], before the backbone's preprocessing, and may change the size."""
    shapes: set[tuple[int, ...]] = set()

    def swapped(image: Tensor) -> Tensor:
        shapes.add((*image.shape[:2], image.itemsize))
        return image.flip(0)[:, :4, :4]

    data = ImageData.from_folder(folder, transform=swapped, batch_size=20)
    ClassificationTask.from_data("mean-colour", data)
    means = {
        stage: {name: inputs.float().mean((2, 3)) / 255 for inputs, [name, *_] in data.loader(stage)}
        for stage in data.stages
    }
    assert shapes == {(3, 9, 1)}
    assert {float(rows[:, 0].max()) for rows in means["train"].values()} == {0.0}
    assert {float(rows[:, 0].max()) for rows in means["val"].values()} == {1.0}


@pytest.mark.usefixtures("_backbones")
def test_a_transform_that_scales_is_refused(folder: Path) -> None:
    """The backbone scales; twice would be wrong without a sign of it."""
    data = ImageData.from_folder(folder, transform=lambda image: image / 255)
    ClassificationTask.from_data("mean-colour", data)
    with pytest.raises(TypeError, match=r"returned a Tensor of torch.float32, \[3, 9, \d+\], expected a uint8 image"):
        next(iter(data.loader("train")))


def test_texts_with_several_labels_train(trainer: MakeTrainer) -> None:
    """Multi-label data makes a multi-label task."""
    data = TextData.from_arrays((["a red ball", "a blue box", "a red box"] * 4, [["red"], [], ["red", "box"]] * 4))
    task = ClassificationTask.from_data("text/embedding/wordllama-256", data, learning_rate=0.5)
    fitting = trainer(max_epochs=10)
    fitting.fit(task, datamodule=data)
    assert task.multi_label
    assert task.predict(["a blue box", "a red box"], output="labels") == [[], ["box", "red"]]


def test_rows_of_numbers_train(trainer: MakeTrainer) -> None:
    """The width of a row reaches the backbone, and the classes are names."""
    values = np.concatenate([np.ones((20, 3)), -np.ones((20, 3))])
    data = TabularData.from_arrays((values, ["up"] * 20 + ["down"] * 20))
    task = ClassificationTask.from_data("template/classification/mlp-128", data, learning_rate=0.05)
    trainer(max_epochs=3).fit(task, datamodule=data)
    assert task.predict(values[[0, -1]], output="labels") == ["up", "down"]


def write_wav(path: Path, samples: Any, rate: int, width: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, width, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, "<i4").view(np.uint8).reshape(-1, 4)[:, 4 - width :].tobytes())


@pytest.mark.usefixtures("_backbones")
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_sound_of_every_width_and_rate_is_read(tmp_path: Path, width: int, rate: int) -> None:
    """Half of full scale is 0.5, and clips of another rate are resampled."""
    tone = np.sin(np.arange(4000) * 2 * np.pi * 500 / rate) * 0.5 * 2**31
    (tmp_path / "tone").mkdir()
    write_wav(tmp_path / "tone" / "1.wav", tone.astype(np.int64), rate, width)
    task = ClassificationTask("loudness", labels=["tone"])
    assert task.embed(tmp_path)[0, 0] == pytest.approx(0.5, abs=0.01)
    assert len(AudioData.from_folder(tmp_path).stages["train"]) == 1


@pytest.mark.usefixtures("_backbones")
def test_clips_in_memory_carry_their_rate() -> None:
    """Samples alone are taken to have the backbone's."""
    half = np.full(16000, 2**14, np.int16)
    task = ClassificationTask("loudness", labels=["tone"])
    features = task.embed([Clip(half, 8000), half])
    assert features == pytest.approx(np.array([[0.5], [0.5]]), abs=1e-3)


@pytest.mark.usefixtures("_backbones")
def test_a_wav_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    """Its header announces more samples: the rest would be another clip."""
    write_wav(tmp_path / "a.wav", np.zeros(80), 8000, 2)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:-20])
    with pytest.raises(MediaError, match=r"a\.wav is cut short, 20 bytes of its samples are missing"):
        ClassificationTask("loudness", labels=["tone"]).embed([tmp_path / "a.wav"])


@pytest.mark.usefixtures("_backbones")
def test_a_wav_whose_outer_length_is_too_small_is_whole(tmp_path: Path) -> None:
    """Programs that add a chunk of metadata forget to correct it."""
    write_wav(tmp_path / "a.wav", np.full(80, 2**30), 8000, 2)
    content = (tmp_path / "a.wav").read_bytes()
    metadata = b"LIST" + (5).to_bytes(4, "little") + b"title\0"
    (tmp_path / "a.wav").write_bytes(content[:36] + metadata + content[36:])
    task = ClassificationTask("loudness", labels=["tone"])
    assert task.embed([tmp_path / "a.wav"])[0, 0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.usefixtures("_backbones")
def test_a_sound_that_is_not_wav_needs_soundfile(tmp_path: Path) -> None:
    """The error has the install line, or the fault that soundfile finds."""
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(MediaError, match=r"a\.wav.*(pip install soundfile|cannot be read as sound)"):
        ClassificationTask("loudness", labels=["tone"]).embed([tmp_path / "a.wav"])


@pytest.mark.usefixtures("_backbones")
def test_data_and_backbone_must_be_of_one_kind() -> None:
    """Texts do not fit a backbone of images; the error names both."""
    data = TextData.from_arrays((["a"] * 2, ["x", "y"]))
    with pytest.raises(TypeError, match="TextData gives texts, and the backbone 'mean-colour' takes images"):
        ClassificationTask.from_data("mean-colour", data)


def test_a_loader_needs_a_task() -> None:
    """Only its backbone knows how items become inputs."""
    data = TextData.from_arrays((["a"] * 2, ["x", "y"]))
    with pytest.raises(ValueError, match="no task is connected: call TextData.connect"):
        data.loader("train")
    with pytest.raises(ValueError, match="this TextData has no test data: it has train"):
        data.loader("test")


def test_a_label_that_the_task_does_not_have_is_named(trainer: MakeTrainer) -> None:
    """Data of another project meets a task."""
    data = TextData.from_arrays((["a"] * 2, ["x", "y"]))
    task = ClassificationTask("text/embedding/wordllama-256", labels=["p", "q"])
    with pytest.raises(ValueError, match=r"got the target '[xy]', expected one of \['p', 'q'\]"):
        trainer().fit(task, datamodule=data)
