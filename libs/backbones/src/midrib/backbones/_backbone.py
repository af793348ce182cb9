"""A loaded backbone: raw media in, one row of features per item out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from midrib.backbones._errors import InputKindError, as_list
from midrib.backbones._tokens import PromptChoice, Prompts, Tokenizer, choose_prompt, prompts_of
from midrib.registry import AbstractRegistry, AudioInput, ContractError, ImageInput, InputSpec, TextInput, in_words

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from midrib.media import ImageMedia

    Batch: TypeAlias = Tensor | npt.NDArray[np.generic] | Sequence[ImageMedia] | Sequence[str]

# torch and Pillow are imported in the functions that use them, because listing the catalogue needs neither.

_Spec = TypeVar("_Spec", ImageInput, TextInput, AudioInput)


@dataclass(frozen=True)
class Backbone:
    """A module in eval mode that turns a batch of inputs into one row of num_features per item.

    Calling it is `embed`: without gradients. `module` computes with gradients.
    name: the key under which it is registered.  module: maps [rows, …] to [rows, num_features], floating.
    input: the kind of input it takes, and its preprocessing. A text backbone's module has a `tokenizer`.
    """

    name: str
    module: nn.Module
    num_features: int
    input: InputSpec

    def revision(self, dtype: str = "float32") -> str:
        """Return the digest of weights, settings, input spec and compute dtype: 64 hexadecimal digits.

        For a remote backbone it is the server's, and dtype is ignored.
        """
        from midrib.backbones._revision import revision

        if self._remote:
            return str(self.module.revision)
        return revision(self.module, self.input, dtype)

    def prepare_images(self, images: Sequence[ImageMedia], *, max_pixels: int | None = None) -> Tensor:
        """Decode, resize, crop and normalise images: [rows, 3, height, width], float32, on the CPU.

        max_pixels: the limit for one image, by default 89,478,485; it may be larger.
        Raises MediaError (with the item's index) for an unusable image, InputKindError if this takes no images.
        """
        from midrib.backbones._images import MAX_PIXELS, prepare_images

        return prepare_images(images, self._spec(ImageInput), max_pixels=max_pixels or MAX_PIXELS)

    def prepare_pixels(self, images: Sequence[ImageMedia], *, max_pixels: int | None = None) -> Tensor:
        """Decode, resize and crop images: [rows, 3, height, width], uint8, on the CPU; `embed` normalises them.

        They are a quarter of the bytes of `prepare_images`, and give the same features to the bit.
        Takes and raises the same as `prepare_images`.
        """
        import torch

        return torch.from_numpy(self.image_pixels(images, max_pixels=max_pixels))

    def image_pixels(self, images: Sequence[ImageMedia], *, max_pixels: int | None = None) -> npt.NDArray[np.uint8]:
        """Decode images to uint8 [rows, 3, height, width] as `prepare_pixels` does, without torch.

        Raises as `prepare_images` does.
        """
        from midrib.backbones._pixels.prepare import MAX_PIXELS, image_pixels

        return image_pixels(images, self._spec(ImageInput), max_pixels=max_pixels or MAX_PIXELS)

    def prepare_texts(
        self, texts: Sequence[str], *, truncate: bool = True, prompt: str | None = None, prompt_name: str | None = None
    ) -> Tensor:
        """Tokenize texts: [rows, tokens of the longest], int64, 0 where padded, -1 for token 0, on the CPU.

        truncate: cut texts at input.max_tokens; if False, a longer one is a MediaError.
        prompt: put before each text; prompt_name: one of the model's prompts instead; by default the model's choice.
        Raises MediaError (with the item's index) for an unusable text, InputKindError if this takes no text,
        ContractError if its module has no tokenizer; a remote backbone's is on the server. ValueError for a prompt_name
        that the model does not have.
        """
        import torch

        return torch.from_numpy(self.token_ids(texts, truncate=truncate, prompt=prompt, prompt_name=prompt_name))

    def token_ids(
        self, texts: Sequence[str], *, truncate: bool = True, prompt: str | None = None, prompt_name: str | None = None
    ) -> npt.NDArray[np.int64]:
        """Tokenize texts to int64 [rows, tokens] as `prepare_texts` does, without torch.

        Raises InputKindError, ContractError, ValueError or MediaError as `prepare_texts` does.
        """
        from midrib.backbones._texts import token_ids

        spec = self._spec(TextInput)
        if self._remote:
            raise ContractError(f"backbone {self.name!r} runs on a server, which tokenizes: use embed_texts")
        tokenizer: Tokenizer | None = getattr(self.module, "tokenizer", None)
        if tokenizer is None:
            raise ContractError(f"backbone {self.name!r} declares TextInput, so its module needs a `tokenizer`")
        chosen = self.choose_prompt(prompt, prompt_name)
        return token_ids(texts, tokenizer, spec.max_tokens, truncate=truncate, prompt=chosen)

    @property
    def prompts(self) -> Prompts:
        """The prompts of its texts: those that a call may name, and the default."""
        return prompts_of(getattr(self.module, "tokenizer", None))

    def choose_prompt(self, prompt: str | None, prompt_name: str | None) -> str | None:
        """Return the text that a call puts before each text; None for the default.

        Raises ValueError if both are set, or for a prompt_name that the model does not have.
        """
        return choose_prompt(self.name, self.prompts, PromptChoice(prompt, prompt_name))

    def prepare_audio(self, clips: Sequence[npt.NDArray[np.generic]], rate: int) -> Tensor:
        """Mix clips down to mono and resample them: [rows, samples of the longest], float32, 0 where padded.

        clips: [samples] or [samples, channels], integers of any width or floats in -1..1, at rate samples per second.
        Raises MediaError (with the item's index) for an unusable clip, InputKindError if this takes no audio.
        """
        import torch

        return torch.from_numpy(self.audio_rows(clips, rate))

    def audio_rows(self, clips: Sequence[npt.NDArray[np.generic]], rate: int) -> npt.NDArray[np.float32]:
        """Mix and resample clips to float32 [rows, samples] as `prepare_audio` does, without torch.

        clips: [samples] or [samples, channels].  Raises as `prepare_audio` does.
        """
        from midrib.backbones._audio import audio_rows

        return audio_rows(clips, rate, self._spec(AudioInput))

    def embed(self, batch: Batch) -> Tensor:
        """Embed a batch, without gradients: [rows, num_features], on the module's device.

        batch: a tensor or array [rows, …] as the module takes it, or a sequence of images or texts, as `embed_images`
        and `embed_texts` take them. Floating rows of any precision are converted to the module's, as a server does it.
        Image backbones also take pixels of uint8, [rows, 3, height, width], and normalise them. No rows give no rows.
        Raises InputKindError for a sequence if this takes neither images nor texts, ContractError if the module does
        not return one row for each.
        """
        import torch

        from midrib.backbones._contract import as_module_input, as_tensor, device_of

        if (tensor := as_tensor(batch, self.input)) is None:
            return self._embed_media(batch)
        if not len(tensor):
            # Many networks cannot reshape an empty batch, and the result is known.
            return torch.zeros(0, self.num_features)
        # Not inference_mode, whose tensors no head can train on.
        with torch.no_grad():
            rows = as_module_input(self.module, self.input, tensor.to(device_of(self.module)))
            features: Tensor = self.module(rows)
        if tuple(features.shape) != (len(tensor), self.num_features):
            raise ContractError(
                f"backbone {self.name!r} returned {list(features.shape)} for {len(tensor)} rows, expected "
                f"{[len(tensor), self.num_features]}: return one row of num_features for each"
            )
        return features.clone()  # a module may return its input

    __call__ = embed

    def _embed_media(self, media: Any) -> Tensor:
        """Embed a sequence of the media that the input declares: [rows, num_features]. Raises as `embed` does."""
        if isinstance(self.input, ImageInput):
            return self.embed_images(media)
        if isinstance(self.input, TextInput):
            return self.embed_texts(media)
        advice = "embed_audio(clips, rate)" if isinstance(self.input, AudioInput) else "a tensor or array [rows, …]"
        raise InputKindError(
            f"backbone {self.name!r} takes {in_words(self.input)}, got {type(media).__name__}: pass {advice}"
        )

    def embed_images(self, images: Sequence[ImageMedia]) -> Tensor:
        """Embed images: `embed(prepare_pixels(images))`, [rows, num_features]."""
        return self.embed(self.prepare_pixels(images))

    def embed_texts(
        self, texts: Sequence[str], *, truncate: bool = True, prompt: str | None = None, prompt_name: str | None = None
    ) -> Tensor:
        """Embed texts: `embed(prepare_texts(texts))`, [rows, num_features].

        A remote backbone's texts are tokenized on the server, which truncates them: truncate=False is a ContractError.
        The other arguments and errors are those of `prepare_texts`.
        """
        if self._remote and truncate:
            self._spec(TextInput)
            return self._embed_remotely(as_list("text", texts), prompt, prompt_name)
        return self.embed(self.prepare_texts(texts, truncate=truncate, prompt=prompt, prompt_name=prompt_name))

    def _embed_remotely(self, texts: list[str], prompt: str | None, prompt_name: str | None) -> Tensor:
        """Embed texts on a remote backbone's server: [rows, num_features].

        Raises ContractError for a prompt that the backbone cannot send.
        """
        module: Any = self.module
        if prompt is None and prompt_name is None:
            return module(texts)  # type: ignore[no-any-return] # a module is not typed
        if not hasattr(module, "embed_texts"):
            raise ContractError(f"backbone {self.name!r} runs elsewhere and takes no prompts: put them into the texts")
        return module.embed_texts(texts, prompt=prompt, prompt_name=prompt_name)  # type: ignore[no-any-return] # as above

    def embed_audio(self, clips: Sequence[npt.NDArray[np.generic]], rate: int) -> Tensor:
        """Embed clips: `embed(prepare_audio(clips, rate))`, [rows, num_features]."""
        return self.embed(self.prepare_audio(clips, rate))

    @property
    def _remote(self) -> bool:
        """Whether the module runs on a server, as `midrib.remote.RemoteBackbone` does."""
        return bool(getattr(self.module, "is_remote", False))

    def _repr_html_(self) -> str:
        """Return the backbone as a table, for notebooks."""
        from midrib.registry._description import html_table

        parameters = sum(parameter.numel() for parameter in self.module.parameters())
        row = (self.name, in_words(self.input), self.num_features, f"{parameters:,}", self.revision()[:12])
        return html_table("Backbone", ("name", "input", "num_features", "parameters", "revision"), [row])

    def _spec(self, kind: type[_Spec]) -> _Spec:
        """Return the declared input. Raises InputKindError if it is not of this kind."""
        if not isinstance(self.input, kind):
            got = kind.__name__.removesuffix("Input").lower()
            raise InputKindError(
                f"backbone {self.name!r} takes {in_words(self.input)}, got {got}: pass that, or name a backbone for "
                f"{got}"
            )
        return self.input


def load_backbone(key: str, *, registry: AbstractRegistry | None = None, **kwargs: Any) -> Backbone:
    """Load a backbone by its key, put it into eval mode and check that it keeps the contract.

    key: `name` or `namespace/name`.  registry: where to look it up, by default BACKBONES.  kwargs: the loader's
    arguments, such as pretrained, checkpoint, or num_features (the input width) of the MLPs.
    Raises UnknownKeyError for an unknown key, WeightsError if the weights cannot be found or do not fit, ContractError
    if the loaded module is not a backbone.
    """
    from midrib.backbones._catalogue import BACKBONES
    from midrib.backbones._contract import check_module, check_output, settle_input
    from midrib.backbones._weights import refuse_diverged

    entry = (BACKBONES if registry is None else registry).get(key, with_metadata=True)
    module, num_features = entry.load(**kwargs)
    check_module(entry.key, module)
    module.eval()
    refuse_diverged(module, repr(entry.key))
    spec = settle_input(entry.key, module, entry.input)
    check_output(entry.key, module, num_features, spec)
    return Backbone(entry.key, module, num_features, spec)
