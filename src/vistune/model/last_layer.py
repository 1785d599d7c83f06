"""The last decoder layer, computed only where something is predicted.

Every place gives keys and values to the others; but what the last layer adds to a place is read by the LM
head alone. In training few places predict anything (pictures and questions do not), so that layer's MLP and
the output of its attention are computed at these places only. Exact: what is left out gets no gradient.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vistune.model.layers import decoder_layers


class LastLayer:
    """Watches the last layer of a decoder LLM; acts where its layout names the ``predicting`` places.

    A layer whose parts have other names than ``mlp`` and ``self_attn.o_proj`` is computed everywhere.
    """

    def __init__(self, language_model: Any) -> None:
        self._places: Tensor | None = None
        layers = decoder_layers(language_model)
        if not len(layers):
            return
        layer = layers[-1]
        layer.register_forward_pre_hook(self._begin, with_kwargs=True)
        for part in (getattr(layer, "mlp", None), getattr(getattr(layer, "self_attn", None), "o_proj", None)):
            if isinstance(part, nn.Module):
                part.register_forward_pre_hook(self._gather)
                part.register_forward_hook(self._scatter)

    def _begin(self, module: nn.Module, inputs: Any, settings: dict[str, Any]) -> None:
        """What holds until the next call: a checkpointed layer is computed again in the backward pass."""
        self._places = getattr(settings.get("layout"), "predicting", None)
        self._tokens = inputs[0].shape[1]

    def _gather(self, module: nn.Module, inputs: Any) -> Any:
        """[1, N, D] -> [1, M, D]."""
        return inputs if self._places is None else (inputs[0][:, self._places], *inputs[1:])

    def _scatter(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """[1, M, D] -> [1, N, D], nought elsewhere."""
        if self._places is None:
            return output
        whole = output.new_zeros((1, self._tokens, output.shape[-1]))
        return whole.index_copy(1, self._places, output)
