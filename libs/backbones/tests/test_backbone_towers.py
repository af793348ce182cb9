"""Published image towers, from checkpoints in their projects' formats, compared with the `transformers` library.

Each checkpoint is made of random weights of the reference, renamed as the project that published the family does it.
The weights are several times larger than usual, so that functions that are nearly linear for small values differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from midrib.backbones import Backbone, load_backbone
from midrib.backbones._torchvision import import_torchvision
from midrib.backbones.testing import no_network
from midrib.registry import ImageInput

transformers = pytest.importorskip("transformers", reason="the reference for these families")
pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("timm", "torchvision"))),
    reason="timm and torchvision are not installed here: MIDRIB_EXTERNAL=1 puts them beside",
)


@pytest.fixture(autouse=True)
def _torchvision() -> None:
    """Import torchvision first: the reference's vision models import it too."""
    import_torchvision()


State: TypeAlias = dict[str, Tensor]
Names: TypeAlias = Iterable[tuple[str, str]]

OPENAI = (
    (r"^vision_model\.", "visual."),
    (r"embeddings\.class_embedding", "class_embedding"),
    (r"embeddings\.patch_embedding", "conv1"),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    ("pre_layrnorm", "ln_pre"),
    ("post_layernorm", "ln_post"),
    (r"encoder\.layers", "transformer.resblocks"),
    ("layer_norm", "ln_"),
    (r"self_attn\.qkv\.", "attn.in_proj_"),
    ("self_attn", "attn"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)
OPEN_CLIP = (
    (r"embeddings\.patch_embedding", "patch_embed.proj"),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"encoder\.layers", "blocks"),
    ("layer_norm", "norm"),
    (r"self_attn\.out_proj", "attn.proj"),
    ("self_attn", "attn"),
    ("post_layernorm", "norm"),
    (r"head\.probe", "attn_pool.latent"),
    (r"head\.attention\.out_proj", "attn_pool.proj"),
    (r"head\.layernorm", "attn_pool.norm"),
    (r"head\.mlp", "attn_pool.mlp"),
    ("^", "visual.trunk."),
)
DINO = (
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings(\.projection)?", "patch_embed.proj"),
    (r"embeddings\.register_tokens", "storage_tokens"),
    (r"embeddings\.", ""),
    (r"^(encoder|model)\.layer", "blocks"),
    (r"attention\.o_proj", "attn.proj"),
    ("attention", "attn"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    ("up_proj", "fc1"),
    ("down_proj", "fc2"),
    ("^layernorm", "norm"),
)


def renamed(state: State, names: Names) -> State:
    """Return the state under other names."""
    result: State = {}
    for name, value in state.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        result[name] = value
    return result


def with_joint_attention(state: State) -> State:
    """Return the state with query, key and value in one matrix, as all these projects save them."""
    joint = {name: value for name, value in state.items() if not re.search(r"\.[qkv]_proj\.", name)}
    for query in [name for name in state if ".q_proj." in name]:
        parts = [state.get(query.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        joint[query.replace("q_proj", "qkv")] = torch.cat([state[query] * 0 if p is None else p for p in parts])
    return joint


def as_openai(state: State) -> State:
    """Return the layout of `ViT-B-32.pt`, which includes a text tower."""
    result = renamed(with_joint_attention(state), OPENAI)
    result["visual.proj"] = result.pop("visual_projection.weight").T.contiguous()
    return result | {"logit_scale": torch.zeros(()), "token_embedding.weight": torch.zeros(4, 4)}


def as_open_clip(state: State) -> State:
    """Return the layout of `open_clip_model.safetensors` of timm/ViT-B-16-SigLIP, which includes a text tower."""
    state = with_joint_attention(state)
    for kind in ("weight", "bias"):
        joint = state.pop(f"head.attention.in_proj_{kind}")
        state |= {f"attn_pool.q.{kind}": joint[:768], f"attn_pool.kv.{kind}": joint[768:]}
    result = renamed(state, OPEN_CLIP)
    result["visual.trunk.pos_embed"] = result["visual.trunk.pos_embed"].unsqueeze(0)
    return result | {"logit_scale": torch.zeros(()), "text.ln_final.weight": torch.zeros(4)}


def as_dinov2(state: State) -> State:
    """Return the layout of `dinov2_vits14_pretrain.pth`, with the mask token of its training."""
    return renamed(with_joint_attention(state), DINO)


def as_dinov3(state: State) -> State:
    """Return the layout of `dinov3_vits16_pretrain_lvd1689m.pth`, with masked or zero biases in attention."""
    result = renamed(with_joint_attention(state), DINO)
    masks = {f"{name}_mask": torch.zeros(3 * 384) for name in result if name.endswith("qkv.bias")}
    return result | masks | {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.zeros(16)}


def clip(patch: int) -> Any:
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(patch_size=patch))


def siglip() -> Any:
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig())


def dinov2() -> Any:
    small = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "layerscale_value": 0.5}
    return transformers.Dinov2Model(transformers.Dinov2Config(**small))


def dinov3() -> Any:
    config = transformers.DINOv3ViTConfig(
        image_size=256, num_register_tokens=4, layerscale_value=0.5, query_bias=False, value_bias=False
    )
    return transformers.DINOv3ViTModel(config)


@pytest.mark.parametrize(
    ("key", "make", "layout", "answer"),
    [
        pytest.param("clip_vitb32", lambda: clip(32), as_openai, "image_embeds", id="clip-b32"),
        pytest.param("clip_vitb16", lambda: clip(16), as_openai, "image_embeds", id="clip-b16"),
        pytest.param("siglip_vitb16", siglip, as_open_clip, "pooler_output", id="siglip"),
        pytest.param("dinov2_vits14", dinov2, as_dinov2, "pooler_output", id="dinov2"),
        pytest.param("dinov3_vits16", dinov3, as_dinov3, "pooler_output", id="dinov3"),
    ],
)
def test_a_published_checkpoint_gives_the_references_features(
    tmp_path: Path, key: str, make: Callable[[], Any], layout: Callable[[State], State], answer: str
) -> None:
    """The features equal those of the reference, to 1e-4 of the largest."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.mul_(3 if value.ndim > 1 and "embeddings" not in name else 1)
    torch.save(layout(model.state_dict()), tmp_path / "published.pth")
    with no_network():
        backbone = load_backbone(key, checkpoint=tmp_path / "published.pth")
    images = backbone.prepare_images(photographs())
    with torch.inference_mode():
        expected = getattr(model(images), answer)
    assert float((backbone.embed(images) - expected).abs().max() / expected.abs().max()) <= 1e-4


@pytest.mark.parametrize(
    ("key", "options"),
    [
        pytest.param("clip_vitb32", {"size": {"shortest_edge": 224}, "do_center_crop": True}, id="clip"),
        pytest.param("siglip_vitb16", {"size": {"height": 224, "width": 224}, "do_center_crop": False}, id="siglip"),
    ],
)
def test_a_towers_preprocessing_is_its_familys(key: str, options: dict[str, Any]) -> None:
    """Prepared photographs are within one level of 255 of the reference's processor."""
    backbone = load_backbone(key, pretrained=False)
    photos = photographs()
    spec = image_input(backbone)
    normal = {"image_mean": spec.mean, "image_std": spec.std}
    processor = transformers.CLIPImageProcessorPil(**options, **normal, crop_size={"height": 224, "width": 224})
    expected = processor(photos, return_tensors="pt").pixel_values
    assert levels_apart(backbone, backbone.prepare_images(photos), expected) <= 1.001


def photographs() -> list[Image.Image]:
    return [Image.fromarray(getattr(skimage.data, name)()) for name in ("chelsea", "coffee")]


def image_input(backbone: Backbone) -> ImageInput:
    assert isinstance(backbone.input, ImageInput)
    return backbone.input


def levels_apart(backbone: Backbone, first: Tensor, second: Tensor) -> float:
    std = torch.tensor(image_input(backbone).std).view(3, 1, 1)
    return float(((first - second).abs() * std).max() * 255)
