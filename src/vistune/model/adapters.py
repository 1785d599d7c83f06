"""Low-rank adapters (LoRA) on the LLM, through peft; and 4-bit weights below them (QLoRA)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from vistune.errors import VistuneError
from vistune.recipe import LoraRecipe

NAME = "default"
_BASE = ".base_layer"


def add_adapters(language_model: Any, lora: LoraRecipe, seed: int) -> int:
    """Put an adapter on every linear layer but the LM head, in place; everything else is frozen.

    Experts of a mixture, whose weights are 3-D parameters, get one each if peft can (:func:`experts_note`).

    Returns:
        How many parameters the adapters have.

    Raises:
        VistuneError: peft is not installed, there are adapters already, or nothing to adapt.
    """
    _need("peft", "lora")
    from peft import LoraConfig, inject_adapter_in_model

    if has_adapters(language_model):
        raise VistuneError("The LLM has adapters already; one stage trains one set of them.")
    head = language_model.get_output_embeddings()
    targets = [
        name for name, m in language_model.named_modules() if isinstance(m, nn.Linear) and m is not head
    ]
    if not targets:
        raise VistuneError(
            f"A {language_model.config.model_type} has no linear layers to adapt; leave out `lora`."
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides by it: a fraction is fine
        lora_dropout=lora.dropout,
        target_modules=targets,
        target_parameters=experts_of(language_model) if _adapts_experts(lora) else None,
        use_dora=lora.dora,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU, wherever they go
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(config, language_model, adapter_name=NAME)
    _sharpen(language_model)
    return train_adapters(language_model)


def experts_note(language_model: nn.Module, lora: LoraRecipe) -> str | None:
    """Return what to tell of experts that get no adapters; None if there are none."""
    experts = set(experts_of(language_model))
    if not experts or _adapts_experts(lora):
        return None
    count = sum(p.numel() for name, p in language_model.named_parameters() if name in experts)
    why = "`lora.dora`" if lora.dora else "`lora.dropout` above 0"
    return f"experts ({count:,} parameters) get no adapters: peft cannot adapt them with {why}"


def _adapts_experts(lora: LoraRecipe) -> bool:
    return lora.dropout == 0 and not lora.dora


def experts_of(language_model: nn.Module) -> list[str]:
    """Return the names of experts' weights: one parameter [experts, rows, columns] for all of a layer's."""
    return [
        f"{owner}.{name}"
        for owner, module in language_model.named_modules()
        if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3
    ]


@torch.no_grad()
def _sharpen(language_model: nn.Module) -> None:
    """Hold fresh adapters in float32. peft makes them in the precision of the weights below them, in which
    DoRA's magnitudes would not be those of the weights."""
    for _, parameter in _adapter_parameters(language_model):
        parameter.data = parameter.data.float()
    for module in language_model.modules():
        if magnitude := getattr(module, "lora_magnitude_vector", None):
            weight = _dequantised(module)
            if not weight.is_meta:
                magnitude[NAME].weight.data = torch.linalg.norm(weight.float(), dim=1)


def train_adapters(language_model: nn.Module) -> int:
    """Train the adapters and nothing else of the LLM; returns how many parameters that are."""
    language_model.requires_grad_(False)
    adapters = list(_adapter_parameters(language_model))
    for _, parameter in adapters:
        parameter.requires_grad_(True)
    return sum(parameter.numel() for _, parameter in adapters)


def has_adapters(module: nn.Module) -> bool:
    return any(True for _ in _adapter_parameters(module))


@torch.no_grad()
def merged_state(
    module: nn.Module, exact: Callable[[str, Tensor], Tensor] | None = None
) -> Iterator[tuple[str, nn.Parameter | Tensor]]:
    """Yield ``module``'s state with adapters merged, under the names it had without them.

    ``module`` is left as it is. An adapted weight is gathered, and computed in float32. Without adapters this
    is the ordinary state.

    Args:
        exact: returns the weight behind what is held, by name: not rounded to the run's precision.
    """
    adapted = {adapted_name(name, m): m for name, m in module.named_modules() if hasattr(m, "lora_A")}
    for name, tensor in module.state_dict(keep_vars=True).items():
        plain = name.replace(_BASE, "")
        if plain in adapted:
            yield plain, _merged(adapted[plain], plain, tensor, exact)
        elif not _is_adapter(name) and not (_BASE in name and "." in name.rpartition(f"{_BASE}.")[2]):
            yield plain, tensor  # the rest: weight.absmax and the like belong to a quantised weight


def quantisation(skip: Sequence[str]) -> dict[str, Any]:
    """Settings of ``from_pretrained`` for nf4 with double quantisation, on this process's GPU.

    Args:
        skip: modules that stay as they are.

    Raises:
        VistuneError: bitsandbytes is not installed, or there is no GPU.
    """
    _need("bitsandbytes", "qlora")
    if not torch.cuda.is_available():
        raise VistuneError("lora.quantise: nf4 needs a CUDA GPU, and none was found. Leave it out here.")
    return {"quantization_config": nf4(skip), "device_map": {"": torch.cuda.current_device()}}


def nf4(skip: Sequence[str]) -> Any:
    """QLoRA's quantisation: 4-bit NormalFloat, its constants quantised too; computes in bfloat16."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(skip),
    )


def merge(weight: Tensor, adapter: Adapter) -> Tensor:
    """Return ``weight`` with ``adapter`` in it, in float32, as peft merges."""
    down, up = adapter.down.float(), adapter.up.float()
    if weight.ndim == 3:  # experts; down: [experts * rank, columns], up: [rows, rank * experts]
        down, up = down.reshape(len(weight), -1, down.shape[-1]), up.reshape(len(up), -1, len(weight))
        places = "e i o" if adapter.transposed else "e o i"
        delta = torch.einsum(f"o r e, e r i -> {places}", up, down) * adapter.scaling
    else:
        delta = (up @ down) * adapter.scaling
    merged = weight.float() + delta
    if adapter.magnitude is None:
        return merged
    return (adapter.magnitude.float() / torch.linalg.norm(merged, dim=1)).view(-1, 1) * merged


@dataclass(frozen=True)
class Adapter:
    """The low-rank update of one weight: ``scaling * up @ down``.

    Attributes:
        magnitude: DoRA's, of each row.
        transposed: of experts: their weights are [experts, columns, rows].
    """

    down: Tensor
    up: Tensor
    scaling: float
    magnitude: Tensor | None = None
    transposed: bool = False


def _merged(layer: Any, name: str, held: Tensor, exact: Callable[[str, Tensor], Tensor] | None) -> Tensor:
    """Return the adapted weight with its adapter in it: a new tensor on the CPU."""
    quantised = hasattr(held, "quant_state")  # adapters were trained on these weights, not on the files'
    weight = gathered(_dequantised(layer) if quantised else held)
    if exact is not None and not quantised:
        weight = exact(name, weight)
    magnitudes = getattr(layer, "lora_magnitude_vector", None)
    return merge(
        weight,
        Adapter(
            gathered(layer.lora_A[NAME].weight),
            gathered(layer.lora_B[NAME].weight),
            layer.scaling[NAME],
            gathered(magnitudes[NAME].weight) if magnitudes else None,
            getattr(layer.get_base_layer(), "is_transposed", False),
        ),
    )


def _dequantised(layer: Any) -> Tensor:
    from peft.utils.integrations import dequantize_module_weight

    weight: Tensor = dequantize_module_weight(layer.get_base_layer())
    return weight


def adapted_name(module: str, layer: Any) -> str:
    """Return the adapted weight's name without adapters."""
    return f"{module}.{getattr(layer, 'parameter_name', 'weight')}".replace(_BASE, "")


def gathered(tensor: Tensor) -> Tensor:
    """Return ``tensor`` on the CPU, gathered if it is sharded (a DTensor)."""
    tensor = tensor.detach()
    gather = getattr(tensor, "full_tensor", None)
    return (tensor if gather is None else gather()).cpu()


def _adapter_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in module.named_parameters() if _is_adapter(name))


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _need(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise VistuneError(f"`lora` needs {package}, which is not installed: pip install 'vistune[{extra}]'.")
