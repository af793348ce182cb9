"""Files and folders in place of a checkpoint: the weights, or an error that names the kind of file."""

from __future__ import annotations

import gzip
import json
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from midrib.backbones import WeightsError
from midrib.backbones._loaders.checkpoints import read_state


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def sharded(folder: Path) -> Path:
    """The weights in two files, as save_pretrained divides them: the path of their index."""
    state = network().state_dict()
    names = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(state)}
    for file in sorted(set(names.values())):
        save_file({name: state[name] for name in state if names[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    return index


def test_weights_in_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    """Large weights are divided so."""
    assert read_state(sharded(tmp_path)).keys() == network().state_dict().keys()


def test_a_missing_file_of_several_is_named(tmp_path: Path) -> None:
    """Without the error, the weights of the missing file would be random."""
    index = sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="no checkpoint at .*model-00002-of-00002.safetensors"):
        read_state(index)


def test_a_weight_that_no_file_holds_is_named(tmp_path: Path) -> None:
    """The files are of two versions of the model."""
    index = sharded(tmp_path)
    save_file({"0.bias": torch.ones(3)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(WeightsError, match="the files of .*index.json lack 0.weight: download them again"):
        read_state(index)


def test_of_a_folder_the_file_to_give_is_named(tmp_path: Path) -> None:
    """The index, if the folder has one."""
    sharded(tmp_path)
    with pytest.raises(WeightsError, match=r"is a folder: give one of its files, model\.safetensors\.index\.json"):
        read_state(tmp_path)


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    """It is another folder than the user thought."""
    with pytest.raises(WeightsError, match="is a folder: give one of its files, but it holds no weights"):
        read_state(tmp_path)


def compressed(folder: Path) -> Path:
    path = folder / "w.pth.gz"
    path.write_bytes(gzip.compress(saved(network().state_dict(), folder / "w.pth").read_bytes()))
    return path


def in_tar(folder: Path) -> Path:
    with tarfile.open(folder / "w.tar", "w") as archive:
        archive.add(saved(network().state_dict(), folder / "w.pth"), "w.pth")
    return folder / "w.tar"


def in_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "w.zip", "w") as archive:
        archive.write(saved(network().state_dict(), folder / "w.pth"), "w.pth")
    return folder / "w.zip"


def flipped(path: Path, place: int) -> Path:
    """The file with one bit turned over."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    return path


def program(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, but its files exist
        traced = torch.jit.trace(network().eval(), torch.ones(1, 2))  # type: ignore[no-untyped-call] # torch's
        torch.jit.save(traced, str(folder / "w.pt"))
    return folder / "w.pt"


def cut(folder: Path) -> Path:
    path = saved(network().state_dict(), folder / "w.pth")
    path.write_bytes(path.read_bytes()[:-200])
    return path


def page(folder: Path) -> Path:
    (folder / "w.pth").write_bytes(b"\xef\xbb\xbf<?xml version='1.0'?><Error>caf\xc3\xa9</Error>")
    return folder / "w.pth"


def changed_line_ends(folder: Path) -> Path:
    """A file that git took for text."""
    path = saved(network().state_dict(), folder / "w.pth")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    return path


def starting(start: bytes) -> Callable[[Path], Path]:
    """A file of another format."""

    def write(folder: Path) -> Path:
        (folder / "w.pth").write_bytes(start + bytes(range(256)))
        return folder / "w.pth"

    return write


FILES: list[Any] = [
    pytest.param(compressed, "it is compressed, unpack it first", id="gzip"),
    pytest.param(in_tar, "it is an archive, unpack it first", id="tar"),
    pytest.param(in_zip, r"it is an archive of \['w.pth'\], unpack it first", id="zip"),
    pytest.param(program, "it is a TorchScript program: in the program that wrote it, save", id="torchscript"),
    pytest.param(cut, "it is damaged or cut short, download it again", id="cut"),
    pytest.param(changed_line_ends, "it is damaged or cut short, download it again", id="line-ends-changed"),
    pytest.param(starting(b"GGUF\3\0\0\0"), "it is a GGUF file, whose weights are quantised", id="gguf"),
    pytest.param(starting(b"\x89HDF\r\n\x1a\n"), "it is an HDF5 file, as of Keras", id="hdf5"),
    pytest.param(starting(b"\x93NUMPY\1\0"), "it is one array of numpy without a name", id="npy"),
    pytest.param(starting(b"\0" * 600), "it begins with zeros only, as an unfinished download", id="zeros"),
    pytest.param(page, "it holds text, such as the error page", id="page-with-a-byte-order-mark"),
    pytest.param(
        lambda folder: saved(network(), folder / "w.pth"),
        "it holds an object of class torch.nn.modules.container.Sequential: in the program that wrote it, save",
        id="whole-module",
    ),
]


@pytest.mark.parametrize(("write", "remedy"), FILES)
def test_the_remedy_fits_the_kind_of_the_file(tmp_path: Path, write: Callable[[Path], Path], remedy: str) -> None:
    """ "Save its state dict" does not help a user whose download was cut."""
    with pytest.raises(WeightsError, match=f"is not a checkpoint that can be read safely .*{remedy}"):
        read_state(write(tmp_path))


@pytest.mark.parametrize(
    ("location", "message"),
    [
        pytest.param("x" * 5000, "no checkpoint at x+ .*File name too long.*: check the path", id="long"),
        pytest.param(5, "got checkpoint=5, expected the path", id="number"),
        pytest.param("https://host/w.pth", "https://host/w.pth is a URL: download the file", id="url"),
        pytest.param("/proc/self/mem", "Input/output error, check the file and your rights", id="unreadable"),
    ],
)
def test_a_location_that_cannot_be_read_is_an_error_of_the_weights(location: Any, message: str) -> None:
    """The error is a WeightsError, not the operating system's."""
    with pytest.raises(WeightsError, match=message):
        read_state(location)


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    """A link that leads to itself is not a checkpoint."""
    (tmp_path / "w.pth").symlink_to(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no checkpoint at .*w.pth"):
        read_state(tmp_path / "w.pth")


def test_pickles_in_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    """Older versions of save_pretrained wrote them."""
    state = network().state_dict()
    names = {name: f"pytorch_model-0000{1 + number % 2}-of-00002.bin" for number, name in enumerate(state)}
    for file in sorted(set(names.values())):
        torch.save({name: state[name] for name in state if names[name] == file}, tmp_path / file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert read_state(index).keys() == state.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{}", "is not an index of weights .*: download it again", id="no-map"),
        pytest.param("[]", "is not an index of weights", id="list"),
        pytest.param('{"weight_map": 3}', "is not an index of weights", id="number"),
        pytest.param("<html>", "is not an index of weights .*such as the error page", id="page"),
    ],
)
def test_an_index_without_files_is_named(tmp_path: Path, text: str, message: str) -> None:
    """It is not taken for a page of text."""
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(WeightsError, match=message):
        read_state(index)


def test_a_wrong_bit_in_a_torch_file_is_an_error(tmp_path: Path) -> None:
    """torch does not compare the checksums that it writes: the weight would be wrong, in silence."""
    weights = torch.arange(1000.0)
    path = saved({"weight": weights}, tmp_path / "w.pth")
    place = path.read_bytes().index(weights.numpy().tobytes()) + 402
    with pytest.raises(WeightsError, match="w.pth is damaged: the checksum of its member w/data/0 is wrong, download"):
        read_state(flipped(path, place))


def test_a_torch_file_without_checksums_is_read(tmp_path: Path) -> None:
    """torch.save can be configured to write none."""
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(network().state_dict(), tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_state(path).keys() == network().state_dict().keys()


def test_of_two_files_with_one_weight_the_index_chooses(tmp_path: Path) -> None:
    """The other one is of an older version."""
    index = sharded(tmp_path)
    files = json.loads(index.read_text())["weight_map"]
    other = next(file for file in files.values() if file != files["0.bias"])
    state = load_file(tmp_path / other)
    save_file({**state, "0.bias": torch.full((3,), 9.0)}, tmp_path / other)
    assert not torch.equal(read_state(index)["0.bias"], torch.full((3,), 9.0))


def test_an_index_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    index = sharded(tmp_path)
    index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes())
    assert read_state(index).keys() == network().state_dict().keys()


def test_an_index_that_names_an_index_is_an_error(tmp_path: Path) -> None:
    """An index could name itself, so nested ones are refused."""
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": index.name}}))
    with pytest.raises(WeightsError, match="names another index in place of files of weights"):
        read_state(index)
