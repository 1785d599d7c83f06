"""The vision encoder: patch features of one of its layers. Frozen, unless a stage says otherwise."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vistune.errors import VistuneError

# Encoders we know: how many special tokens stand before the patches, and whether positions are
# interpolated, so that pictures may have another size than the configuration names.
_ENCODERS = {
    "clip_vision_model": (1, False),
    "metaclip_2_vision_model": (1, False),
    "siglip_vision_model": (0, False),
    "dinov2": (1, True),
    "dinov2_with_registers": (1, True),
}


class VisionEncoder(nn.Module):
    """An encoder of the CLIP, SigLIP or DINOv2 family, read at one hidden layer.

    Layers after the one that is read are kept, for checkpoints, but not computed.

    Args:
        backbone: for example ``CLIPVisionModel``.
        layer: which hidden state to read, as transformers numbers them: 0 is the first layer's input, -2
            the second-to-last layer's output (the paper's choice).
        select: ``patch`` drops the special tokens before the patches, ``cls_patch`` keeps them.
        image_size: side of the pictures in pixels, where it is not the configuration's.

    Attributes:
        trained: whether a stage trains it; the paper's two do not.

    Raises:
        VistuneError: an encoder of another family, or a setting that does not fit this one.
    """

    def __init__(
        self, backbone: Any, layer: int = -2, select: str = "patch", image_size: int | None = None
    ) -> None:
        super().__init__()
        config = backbone.config
        self.specials = special_tokens(config)
        self.image_size = _checked_size(config, image_size)
        self.layer, self.select = layer, select
        depth = int(config.num_hidden_layers)
        if not -depth - 1 <= layer <= depth:
            raise VistuneError(
                f"vision_layer {layer}: this encoder has {depth} layers; choose from {-depth - 1} to {depth}."
            )
        if select == "cls_patch" and not self.specials:
            raise VistuneError(
                f"vision_select cls_patch: a {config.model_type} has no class token to keep; choose patch."
            )
        self.backbone = backbone
        self.set_trained(False)

    @property
    def width(self) -> int:
        return int(self.backbone.config.hidden_size)

    @property
    def dropped(self) -> int:
        """How many of the encoder's leading tokens are left out."""
        return self.specials if self.select == "patch" else 0

    @property
    def patches(self) -> int:
        """How many features a picture gives."""
        side = self.image_size // int(self.backbone.config.patch_size)
        return side**2 + self.specials - self.dropped

    @property
    def depth(self) -> int:
        """How many layers are computed."""
        count = int(self.backbone.config.num_hidden_layers)
        return self.layer if self.layer >= 0 else count + 1 + self.layer

    @property
    def layers(self) -> nn.ModuleList:
        """The layers that are computed."""
        found = self.backbone.get_submodule(_layers_of(self.backbone))[: self.depth]
        assert isinstance(found, nn.ModuleList)
        return found

    def forward(self, pixels: Tensor) -> Tensor:
        """``pixels`` [N, 3, H, W] -> features [N, patches, width]."""
        pixels = pixels.to(next(self.backbone.parameters()).dtype)
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            read: Tensor = _up_to(self.backbone, self.depth)(pixels).last_hidden_state
            return read[:, self.dropped :]

    def set_trained(self, trained: bool) -> None:
        """Train what is computed, or nothing."""
        self.trained = trained
        self.backbone.requires_grad_(False)
        for name, parameter in _up_to(self.backbone, self.depth).named_parameters():
            # DINOv2's stands for patches that are hidden from it, and none are.
            parameter.requires_grad_(trained and not name.endswith("mask_token"))

    def train(self, mode: bool = True) -> VisionEncoder:
        """Stay in evaluation mode while the encoder is frozen."""
        return super().train(mode and self.trained)


def special_tokens(config: Any) -> int:
    """How many special tokens an encoder of this configuration puts before the patches.

    Raises:
        VistuneError: it is of none of the families we know.
    """
    if config.model_type not in _ENCODERS:
        raise VistuneError(
            f"A vision encoder of type {config.model_type!r} is not supported; choose one of: "
            f"{', '.join(_ENCODERS)} (or a whole clip or siglip model)."
        )
    return _ENCODERS[config.model_type][0] + int(getattr(config, "num_register_tokens", 0))


def _checked_size(config: Any, image_size: int | None) -> int:
    size = int(image_size or config.image_size)
    if size != config.image_size and not _ENCODERS[config.model_type][1]:
        raise VistuneError(
            f"preprocessor_config.json: pictures of {size} pixels, but this {config.model_type} takes "
            f"{config.image_size}. Use the file that came with the encoder."
        )
    if size % config.patch_size and _ENCODERS[config.model_type][1]:
        raise VistuneError(
            f"preprocessor_config.json: pictures of {size} pixels are not whole patches of "
            f"{config.patch_size}. Choose a multiple."
        )
    return size


def _up_to(backbone: Any, depth: int) -> nn.Module:
    """A view of ``backbone``, same weights, that computes ``depth`` layers and nothing after them."""
    path = _layers_of(backbone)
    view = owner = _own_children(backbone)
    children = list(view._modules)
    for name in children[children.index(path.split(".")[0]) + 1 :]:
        view._modules[name] = nn.Identity()  # a last norm, a pooling head
    *owners, last = path.split(".")
    for name in owners:
        owner._modules[name] = owner = _own_children(owner.get_submodule(name))
    owner._modules[last] = backbone.get_submodule(path)[:depth]
    return view


def _layers_of(backbone: Any) -> str:
    """The name of the list of ``backbone``'s layers."""
    return next(
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == backbone.config.num_hidden_layers
    )


def _own_children(module: nn.Module) -> nn.Module:
    """A shallow copy whose children can be exchanged without touching ``module``'s."""
    view = copy.copy(module)
    view.__dict__["_modules"] = dict(module._modules)
    return view
