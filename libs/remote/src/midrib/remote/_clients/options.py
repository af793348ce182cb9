"""The arguments of `embed` and `embed_stream`, and the rows that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypedDict, get_args

from numpy.typing import ArrayLike

from midrib.registry import TextInput, suggestion
from midrib.remote._connect.arguments import checked_count, checked_dtype, checked_text
from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._items.images import ImageLike
from midrib.remote._items.rows import Rows, TensorRows, any_rows, audio_rows, image_rows, text_rows
from midrib.remote._stream.request import StreamSpec
from midrib.wire import InvalidInputError, UnsupportedError, code_from_dtype

Kind: TypeAlias = Literal["tensor", "images", "texts", "audio"]


class StreamOptions(TypedDict, total=False):
    """The options of `embed_stream`.

    rate: samples a second of audio clips.
    dtype: the type of the features, by default the backbone's compute type. "int8" sends a byte for each feature, off
    by at most 1/254 of its row's largest, and returns float32.
    normalize: rows of unit length.  dimensions: keep only the first features.
    revision: refuse to answer with another revision.
    prompt: put before each text, in place of the backbone's default prompt; "" for none.
    prompt_name: one of the backbone's prompts instead, such as "query".
    """

    rate: int | None
    dtype: str | None
    normalize: bool
    dimensions: int | None
    revision: str | None
    prompt: str | None
    prompt_name: str | None


class EmbedOptions(StreamOptions, total=False):
    """The options of `embed`: those of `embed_stream`, and media to embed instead of an array.

    images: encoded (bytes), as paths, PIL images, or uint8 arrays [height, width, 3].
    texts: strings.  audio: clips [samples] or [samples, channels] in -1..1, at `rate`.
    """

    images: Sequence[ImageLike] | None
    texts: Sequence[str] | None
    audio: Sequence[ArrayLike] | None


class FeatureOptions(NamedTuple):
    """The options that select the features. revision: None follows the server."""

    dtype: str | None = None
    normalize: bool = False
    dimensions: int | None = None
    revision: str | None = None
    prompt: str | None = None
    prompt_name: str | None = None

    def spec(self, info: BackboneInfo) -> StreamSpec:
        """Return the function to call: of the pinned revision, or of the one that the server describes.

        Raises InvalidInputError or UnsupportedError for a prompt that the backbone or its server does not take.
        """
        if self.prompt is not None or self.prompt_name is not None:
            _check_prompt(info, self.prompt, self.prompt_name)
        code = None if self.dtype is None else code_from_dtype(self.dtype)
        revision, follows = self.revision or info.revision, self.revision is None
        return StreamSpec(
            info.name, revision, code, self.normalize, self.dimensions, follows, self.prompt, self.prompt_name
        )


def _check_prompt(info: BackboneInfo, prompt: str | None, name: str | None) -> None:
    """Raise an error for a prompt that the server would refuse or, if it is older than prompts, ignore."""
    if not isinstance(info.takes, TextInput):
        raise InvalidInputError(f"{info.name} takes {info.takes}, a prompt is for texts: drop it")
    if info.default_prompt is None:
        raise UnsupportedError(
            f"the server of {info.name} does not take prompts: update it, or put them into the texts"
        )
    if prompt is not None and name is not None:
        raise InvalidInputError(f"got prompt={prompt!r} and prompt_name={name!r}, expected at most one: drop one")
    if name is not None and name not in info.prompts:
        names = ", ".join(map(repr, sorted(info.prompts))) or "none"
        raise InvalidInputError(f"{info.name} has no prompt {name!r}, it has {names}: pass the text itself as prompt")


STREAM_OPTIONS: Final = StreamOptions.__optional_keys__
EMBED_OPTIONS: Final = EmbedOptions.__optional_keys__
_CLIENT_ARGUMENTS: Final = {"timeout", "token", "tls", "hedge_s", "priority", "shared_memory"}
# The names that other libraries have for our arguments.
_OTHER_NAMES: Final = {"sentences": "texts", "documents": "texts"}
_MAX_DIMENSIONS: Final = 2**31 - 1
_DEFAULTS: Final = FeatureOptions()


def feature_options(options: EmbedOptions | StreamOptions, accepted: frozenset[str]) -> FeatureOptions:
    """Return the options that select the features.

    accepted: the names of the options that the method takes. Raises TypeError for another one, and InvalidInputError
    for a value that an option cannot have.
    """
    if not options:
        return _DEFAULTS
    if not options.keys() <= accepted:
        raise _unexpected(next(name for name in options if name not in accepted), accepted)
    dimensions, normalize = options.get("dimensions"), options.get("normalize", False)
    if normalize not in (False, True, None):
        raise InvalidInputError(f"normalize is {normalize!r:.40}, expected True or False")
    return FeatureOptions(
        None if (dtype := options.get("dtype")) is None else checked_dtype(dtype),
        bool(normalize),
        None if dimensions is None else checked_count("dimensions", dimensions, _MAX_DIMENSIONS),
        _text_or_none("revision", options.get("revision")),
        _text_or_none("prompt", options.get("prompt")),
        _text_or_none("prompt_name", options.get("prompt_name")),
    )


def _unexpected(name: str, accepted: frozenset[str]) -> TypeError:
    """Return the error for an argument that a method does not take, with the place or the name that is meant."""
    if name in _CLIENT_ARGUMENTS:
        advice = f"it belongs to the client, for all its calls: Client(address, {name}=...)"
    else:
        advice = suggestion(_OTHER_NAMES.get(name, name), sorted(accepted))
    return TypeError(f"got an unexpected argument {name!r}: {advice}")


def _text_or_none(name: str, value: object) -> str | None:
    return None if value is None else checked_text(name, value)


def input_rows(x: ArrayLike | None, options: EmbedOptions) -> Rows:
    """Return the rows of the single input that was passed: x [rows, ...], or media in the options.

    Raises InvalidInputError for no input, or for several.
    """
    if x is not None and not options:
        return any_rows(x)
    media = {kind: options.get(kind) for kind in ("images", "texts", "audio")}
    inputs = [kind for kind, value in {"x": x, **media}.items() if value is not None]
    if len(inputs) != 1:
        received = " and ".join(inputs) or "nothing"
        raise InvalidInputError(f"embed got {received}, expected one input: pass x, images=, texts= or audio=")
    if x is not None:
        return any_rows(x)
    return media_rows(inputs[0], media[inputs[0]], options.get("rate"))


def media_rows(kind: str, media: Any, rate: int | None) -> Rows:
    """Return the rows of images, texts or clips, each as the class of their kind takes them."""
    if kind == "images":
        return image_rows(media)
    return text_rows(media) if kind == "texts" else audio_rows(media, rate)


def batch_rows(batch: Any, kind: Kind, rate: int | None) -> Rows:
    """Return the rows of one batch of a stream, copied: the iterable may fill the same memory again.

    Raises InvalidInputError for an unknown kind, and for a batch that cannot be sent.
    """
    if kind not in (kinds := get_args(Kind)):
        raise InvalidInputError(f"kind is {kind!r:.40}, expected one of {', '.join(kinds)}")
    if kind != "tensor":
        return media_rows(kind, batch, rate)
    rows = any_rows(batch)
    if not isinstance(rows, TensorRows):
        return rows
    return rows.copied() if rows.array is batch or rows.array.base is not None else rows
