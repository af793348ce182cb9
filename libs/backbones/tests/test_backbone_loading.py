"""Loading a backbone checks its contract, and its revision identifies its function."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from midrib.backbones import BACKBONES, Backbone, InputKindError, WeightsError, load_backbone
from midrib.registry import ContractError, ImageInput, InputSpec, Registry, TensorInput, TextInput, UnknownKeyError


@pytest.fixture()
def registry() -> Registry:
    return Registry("mine")


class Returns(nn.Module):
    """Returns a fixed value for every batch."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, batch: Tensor) -> object:
        return self.answer


def test_importing_the_catalogue_imports_no_heavy_library() -> None:
    """`midrib list` is fast because no heavy library is imported."""
    heavy = ["torch", "numpy", "PIL", "transformers", "tokenizers", "timm", "safetensors", "huggingface_hub"]
    code = (
        "import sys, midrib.backbones as b; b.BACKBONES.list(catalogues=False); "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "width"), [("mlp-128", 128), ("mlp-128-256", 256)])
def test_the_perceptrons_take_the_width_in_and_any_number_of_rows(name: str, width: int) -> None:
    """num_features is the input width, as in the guide; batches of one row and of none work."""
    backbone = load_backbone(name, num_features=20)
    assert (backbone.num_features, backbone.input) == (width, TensorInput((20,)))
    assert backbone.name == f"template/classification/{name}"
    assert backbone.embed(torch.ones(1, 20)).shape == (1, width)
    assert backbone.embed(torch.ones(0, 20)).shape == (0, width)


def test_a_loaded_backbone_is_in_eval_mode() -> None:
    """In training mode, batch normalisation would depend on the rest of the batch."""
    assert not load_backbone("mlp-128", num_features=4).module.training


@pytest.mark.parametrize("rows", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weights", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_floating_rows_of_any_precision_are_taken(rows: torch.dtype, weights: torch.dtype) -> None:
    """numpy's default is float64; through a server every floating type works, so it does in process."""
    module = backbone(linear(weights))
    features = module.embed(torch.tensor([[1.0, 2.0]], dtype=rows))
    assert features.dtype == weights
    assert features.tolist() == [[3.0, 3.0]]


class Pixels(nn.Module):
    """Returns its input, flattened."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_pixels_of_uint8_are_normalised_by_the_backbone() -> None:
    """The rows equal those of the same picture prepared from an array, and other widths work too."""
    spec = ImageInput(4, width=6, crop=1.0)
    pixels = torch.randint(0, 256, (2, 3, 4, 6), dtype=torch.uint8)
    module = Backbone("x", Pixels(), 72, spec)
    prepared = module.prepare_images([image.permute(1, 2, 0).numpy() for image in pixels])
    assert torch.equal(module.embed(pixels), module.embed(prepared))


def test_an_unknown_name_suggests_similar_ones() -> None:
    """The error suggests similar names."""
    with pytest.raises(UnknownKeyError, match="mlp-128"):
        load_backbone("mlp-129", num_features=4)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param([1], "returned list, expected one tensor", id="not-a-tensor"),
        pytest.param(torch.zeros(2, 4, 5), r"returned \[2, 4, 5\].*expected \[2, 4\].*pool", id="not-pooled"),
        pytest.param(torch.zeros(4), r"returned \[4\]", id="pooled-over-the-batch"),
        pytest.param(torch.zeros(2, 5), r"returned \[2, 5\]", id="another-width"),
        pytest.param(torch.zeros(2, 4, dtype=torch.int64), "torch.int64 for 2 rows.*floating", id="integers"),
    ],
)
def test_a_module_that_is_not_a_backbone_is_refused(registry: Registry, answer: object, message: str) -> None:
    """The error shows the module's result and the expected one."""
    registry(lambda: (Returns(answer), 4), name="bad", input=TensorInput((3,)))
    with pytest.raises(ContractError, match=f"backbone 'bad' .*{message}"):
        load_backbone("bad", registry=registry)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        pytest.param(nn.Linear, "returned <class .* of type type as its module", id="a class"),
        pytest.param(len, "returned <built-in function len> of type .* as its module", id="a function"),
        pytest.param(nn.Linear(3, 4, device="meta"), "the weight 'weight', which is on the meta device", id="meta"),
        pytest.param(nn.LazyLinear(4), "the weight 'weight', which is uninitialized", id="lazy"),
    ],
)
def test_a_module_without_weights_is_refused(registry: Registry, module: object, message: str) -> None:
    """The error names the backbone and the weight."""
    registry(lambda: (module, 4), name="bad", input=TensorInput((3,)))
    with pytest.raises(ContractError, match=f"backbone 'bad' .*{message}"):
        load_backbone("bad", registry=registry)


def test_a_module_that_cannot_take_its_declared_input_is_refused_at_load(registry: Registry) -> None:
    """A wrong declaration is found when loading, not at the first request."""
    registry(lambda: (nn.Linear(8, 4), 4), name="bad", input=TensorInput((3,)))
    with pytest.raises(ContractError, match=r"fails on a batch of shape \[2, 3\]"):
        load_backbone("bad", registry=registry)


def test_without_a_declaration_the_first_linear_layer_gives_the_width(registry: Registry) -> None:
    """The loaders of the contributor guide declare no input."""
    registry(lambda num_features: (nn.Linear(num_features, 4), 4), name="guide")
    assert load_backbone("guide", registry=registry, num_features=7).input == TensorInput((7,))


def test_an_input_that_cannot_be_known_must_be_declared(registry: Registry) -> None:
    """If the first layer is not linear, the error says what to add."""
    registry(lambda: (nn.Sequential(nn.Conv2d(3, 4, 1)), 4), name="conv")
    with pytest.raises(ContractError, match="register it with input="):
        load_backbone("conv", registry=registry)


def test_a_module_may_declare_its_input(registry: Registry) -> None:
    """A spec that is known only after loading replaces the registered one."""
    module = nn.Flatten()
    module.input = ImageInput(2)  # type: ignore[assignment] # nn.Module accepts any attribute
    registry(lambda: (module, 12), name="late", input=ImageInput(224))
    assert load_backbone("late", registry=registry).input == ImageInput(2)


def test_media_of_another_kind_are_refused() -> None:
    """The error says which input the backbone takes."""
    with pytest.raises(
        InputKindError, match=r"takes float32 \[4\], got image: pass that, or name a backbone for image"
    ):
        load_backbone("mlp-128", num_features=4).prepare_images([])


def linear(dtype: torch.dtype = torch.float32) -> nn.Linear:
    layer = nn.Linear(2, 2)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer.to(dtype)


class Prompted(nn.Linear):
    """A layer with a setting that is not a weight."""

    def __init__(self, prompt: str) -> None:
        super().__init__(2, 2)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.settings = {"prompt": prompt}


PAIR = TensorInput((2,))


def backbone(module: nn.Module, spec: InputSpec = PAIR) -> Backbone:
    return Backbone("x", module, 2, spec)


def test_the_same_function_has_the_same_revision() -> None:
    """A revision depends on content alone, so it is the same in every process and on every machine."""
    assert backbone(linear()).revision() == backbone(linear()).revision()
    # A change of the digest's definition would invalidate every cache and pinned revision.
    assert backbone(linear()).revision() == PINNED


PINNED = "4ba42db8ac5c3738f220f07402181828e1ea5823042dae8d26d7e27932d15ac9"


def test_the_revision_of_an_image_backbone_covers_its_preprocessing() -> None:
    """It changes with the pixels that images become, and only then: caches and resumed runs rely on it."""
    assert backbone(linear(), ImageInput(2)).revision() == IMAGE_PINNED


IMAGE_PINNED = "9fcb325f5853aa939398e8c992267072d8cddacf518969591757b99f381423fb"


def changed_weight() -> nn.Module:
    layer = linear()
    layer.weight.data[0, 0] += 1e-6
    return layer


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(backbone(changed_weight()), id="one-weight"),
        pytest.param(backbone(linear(torch.bfloat16)), id="dtype-of-weights"),
        pytest.param(backbone(nn.Sequential(linear())), id="names"),
        pytest.param(backbone(linear(), TensorInput((None,))), id="input-spec"),
        pytest.param(backbone(linear(), TextInput(2)), id="kind-of-input"),
        pytest.param(backbone(Prompted("query: ")), id="settings"),
    ],
)
def test_any_change_of_the_function_changes_the_revision(other: Backbone) -> None:
    """The digest covers weights, their names and types, the input and the settings."""
    assert other.revision() != backbone(linear()).revision()


def test_the_compute_dtype_is_part_of_the_revision() -> None:
    """The same weights give other features in bfloat16."""
    assert backbone(linear()).revision("bfloat16") != backbone(linear()).revision("float32")


def test_settings_tell_two_functions_of_the_same_weights_apart() -> None:
    """Two prompts over one encoder are two functions."""
    assert backbone(Prompted("query: ")).revision() != backbone(Prompted("passage: ")).revision()


def test_pretrained_without_weights_is_an_error_not_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, the error says what to pass instead."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"dino.* could not be fetched .*checkpoint=PATH.*pretrained=False"):
        BACKBONES.load("dino_vitb16")


def test_a_notebook_shows_a_backbone() -> None:
    """Its name, input, width, parameters and revision."""
    backbone = load_backbone("mlp-128", num_features=4)
    html = backbone._repr_html_()
    assert "<td>template/classification/mlp-128</td><td>float32 [4]</td><td>128</td>" in html
    assert f"<td>{backbone.revision()[:12]}</td>" in html
