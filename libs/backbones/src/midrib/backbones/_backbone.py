"""A loaded backbone: raw media in, one row of features per item out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from midrib.backbones._errors import InputKindError
from midrib.registry import AbstractRegistry, AudioInput, ContractError, ImageInput, InputSpec, TextInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from midrib.backbones._images import ImageMedia
    from midrib.backbones._tokens import Tokenizer

# torch and Pillow are imported where they are used: listing the catalogue needs neither.

_Spec = TypeVar("_Spec", ImageInput, TextInput, AudioInput)


@dataclass(frozen=True)
class Backbone:
    """A module in eval mode that turns a batch of inputs into one row of num_features an item.

    name: the key it is registered under.  module: maps [rows, …] to [rows, num_features], floating.
    input: what it takes, and how raw media become that. A text backbone's module carries its `tokenizer`.
    """

    name: str
    module: nn.Module
    num_features: int
    input: InputSpec

    def revision(self, dtype: str = "float32") -> str:
        """Digest weights, input spec and compute dtype: 64 hexadecimal digits that name this function."""
        from midrib.backbones._revision import revision

        return revision(self.module, self.input, dtype)

    def prepare_images(self, images: Sequence[ImageMedia], *, max_pixels: int | None = None) -> Tensor:
        """Decode, resize, crop and normalise images: [rows, 3, size, size], float32, on the CPU.

        max_pixels: of one image; Pillow's own bound where absent.
        Raises MediaError (with the item's index) for an unusable image, InputKindError if this takes no images.
        """
        from midrib.backbones._images import MAX_PIXELS, prepare_images

        return prepare_images(images, self._spec(ImageInput), max_pixels=max_pixels or MAX_PIXELS)

    def prepare_texts(self, texts: Sequence[str], *, truncate: bool = True) -> Tensor:
        """Tokenise texts: [rows, tokens of the longest], int64, 0 where padded, on the CPU.

        truncate: cut texts at input.max_tokens; if False, a longer one is a MediaError.
        Raises MediaError (with the item's index) for an unusable text, InputKindError if this takes no text.
        """
        from midrib.backbones._texts import prepare_texts

        spec = self._spec(TextInput)
        tokenizer: Tokenizer | None = getattr(self.module, "tokenizer", None)
        if tokenizer is None:
            raise ContractError(f"backbone {self.name!r} declares TextInput, so its module needs a `tokenizer`")
        return prepare_texts(texts, tokenizer, spec.max_tokens, truncate=truncate)

    def prepare_audio(self, clips: Sequence[npt.NDArray[np.generic]], rate: int) -> Tensor:
        """Mix clips down to mono and resample them: [rows, samples of the longest], float32, 0 where padded.

        clips: [samples] or [samples, channels], integers of their full range or floats in -1..1, at rate samples
        a second.
        Raises MediaError (with the item's index) for an unusable clip, InputKindError if this takes no audio.
        """
        from midrib.backbones._audio import prepare_audio

        return prepare_audio(clips, rate, self._spec(AudioInput))

    def embed(self, batch: Tensor) -> Tensor:
        """Run a prepared batch: [rows, num_features], without gradients, on the module's device."""
        import torch

        from midrib.backbones._contract import device_of

        if not len(batch):
            # Many networks cannot reshape nothing; the answer is known without them.
            return torch.zeros(0, self.num_features)
        with torch.inference_mode():
            features: Tensor = self.module(batch.to(device_of(self.module)))
        return features

    def embed_images(self, images: Sequence[ImageMedia]) -> Tensor:
        """Embed images: `embed(prepare_images(images))`."""
        return self.embed(self.prepare_images(images))

    def embed_texts(self, texts: Sequence[str], *, truncate: bool = True) -> Tensor:
        """Embed texts: `embed(prepare_texts(texts))`."""
        return self.embed(self.prepare_texts(texts, truncate=truncate))

    def embed_audio(self, clips: Sequence[npt.NDArray[np.generic]], rate: int) -> Tensor:
        """Embed clips: `embed(prepare_audio(clips, rate))`."""
        return self.embed(self.prepare_audio(clips, rate))

    def _spec(self, wanted: type[_Spec]) -> _Spec:
        if not isinstance(self.input, wanted):
            got = wanted.__name__.removesuffix("Input").lower()
            raise InputKindError(f"backbone {self.name!r} takes {self.input}, got {got}: use the method for its input")
        return self.input


def load_backbone(key: str, *, registry: AbstractRegistry | None = None, **kwargs: Any) -> Backbone:
    """Load a backbone by its key, put it into eval mode and check that it keeps the contract.

    key: `name` or `namespace/name`.  registry: where to look, by default BACKBONES.  kwargs: the loader's own
    arguments, such as pretrained, checkpoint, or num_features (the width *in*) of the MLPs.
    Raises UnknownKeyError for an unknown key, WeightsError if weights cannot be had, ContractError if what was loaded
    is no backbone.
    """
    from midrib.backbones._catalogue import BACKBONES
    from midrib.backbones._contract import check_output, settle_input

    entry = (BACKBONES if registry is None else registry).get(key, with_metadata=True)
    module, num_features = entry.load(**kwargs)
    module.eval()
    spec = settle_input(entry.key, module, entry.input)
    check_output(entry.key, module, num_features, spec)
    return Backbone(entry.key, module, num_features, spec)
