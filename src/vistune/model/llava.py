"""The parts assembled: vision encoder -> connector -> LLM.

Shapes: B rows, T positions, I pictures, P patches a picture, D the LLM's width, V vocabulary; in training
one row of N tokens, M of whose places predict what is trained on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vistune.data.batch import Batch
from vistune.model.adapters import has_adapters, train_adapters
from vistune.model.attention import Arrangement, Layout, given_mask, prepare
from vistune.model.computing import PACKED, Computing
from vistune.model.connector import Connector
from vistune.model.cpu_linear import use_faster_library
from vistune.model.last_layer import LastLayer
from vistune.model.vision import VisionEncoder

LOGITS_AT_ONCE = 2**25  # elements; more are computed in chunks, and again in the backward pass


class Llava(nn.Module):
    """LLaVA (paper Sec. 4.1): the LLM reads connected patch features where a picture stands.

    Args:
        language_model: a decoder LLM of transformers.
        image_token: id of the token that holds a picture's place, once for each patch.
        computing: how the LLM may be computed (:func:`vistune.model.probe.judge`).
    """

    def __init__(
        self,
        vision: VisionEncoder,
        connector: Connector,
        language_model: Any,
        image_token: int,
        computing: Computing = PACKED,
    ) -> None:
        super().__init__()
        self.vision, self.connector, self.language_model = vision, connector, language_model
        self.image_token = image_token
        self.compute(computing)
        self.cpu_kernel = use_faster_library(self)  # first: a layer that is replaced loses its hooks
        self._last_layer = LastLayer(language_model)

    def compute(self, computing: Computing) -> None:
        """Compute the LLM so from now on."""
        self.computing = computing
        if computing.packs:
            prepare(self.language_model)

    def embed(self, ids: Tensor, pixels: Tensor | None) -> Tensor:
        """Embeddings [B, T, D] of ``ids`` [B, T], with features of ``pixels`` [I, 3, H, W] in their places.

        Pictures fill the image tokens of the rows in reading order.
        """
        return self.embed_connected(ids, None if pixels is None else self.features(pixels))

    def forward(self, batch: Batch) -> Tensor:
        """Sum of the cross-entropy over the M places that predict what is trained on; only these go through
        the LM head."""
        hidden, targets = self._hidden(batch), batch.targets
        chunk = max(1, LOGITS_AT_ONCE // self.language_model.config.vocab_size)
        if len(targets) <= chunk:
            return self._cross_entropy(hidden, targets)
        losses = [
            checkpoint(self._cross_entropy, h, t, use_reentrant=False)
            for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True)
        ]
        return torch.stack(losses).sum()

    def _hidden(self, batch: Batch) -> Tensor:
        """The decoder's last hidden states [M, D] at ``batch.sources``."""
        pictures = self._connected(self._features(batch))
        if batch.picture_order is not None:
            pictures = pictures[batch.picture_order]
        embeddings = self._place(batch.ids, pictures, batch.patches)
        if batch.mask is not None:
            return self._decode_alone(embeddings, batch.mask).flatten(0, 1)[batch.sources]
        layout = Layout(batch.trees, batch.predicting)
        return self._decode(embeddings, batch.positions, layout)[0, batch.sources]

    def _features(self, batch: Batch) -> Tensor:
        """[I, P, width of the vision encoder]; zero pictures for a row without one.

        The connector then computes nothing but takes part: its gradient is zero instead of missing. Processes
        that train together must all reduce the same gradients, whatever their rows show. An encoder that is
        trained takes part by one black picture, none of whose features are read: not every kernel for
        attention computes for zero.
        """
        if batch.pixels is not None:
            features: Tensor = self.vision(batch.pixels)
            return features
        if batch.features is not None:
            return batch.features
        if self.vision.trained:
            side = self.vision.image_size
            none: Tensor = self.vision(torch.zeros((1, 3, side, side), device=batch.ids.device))[:0]
            return none
        shape = (0, self.vision.patches, self.vision.width)
        return torch.zeros(shape, dtype=self._weight_dtype, device=batch.ids.device)

    def read(
        self, ids: Tensor, positions: Tensor, layout: Arrangement, pictures: Tensor | None = None
    ) -> Tensor:
        """The decoder's last hidden states [N, D] of one packed row.

        Args:
            ids, positions: [1, N].
            layout: what each token attends to.
            pictures: connected features [I, P, D] of the row's pictures, in reading order.
        """
        return self._decode(self.embed_connected(ids, pictures), positions, layout)[0]

    def _decode(self, embeddings: Tensor, positions: Tensor, layout: Arrangement) -> Tensor:
        """The decoder's last hidden states [1, N, D] of one packed row."""
        hidden: Tensor = self.language_model.get_decoder()(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=given_mask(embeddings.device),
            layout=layout,
            use_cache=False,
        ).last_hidden_state
        return hidden

    def _decode_alone(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """The decoder's last hidden states [B, T, D] as transformers computes them, with masks of its own.

        Args:
            mask: [B, T]; padding stands at the rows' ends.
        """
        hidden: Tensor = self.language_model.get_decoder()(
            inputs_embeds=embeddings, attention_mask=mask, use_cache=False
        ).last_hidden_state
        return hidden

    def read_on(self, embeddings: Tensor, cache: Any, before: int) -> Tensor:
        """The hidden states [1, n, D] of what is read next, as transformers' generation computes them.

        Args:
            embeddings: [1, n, D].
            cache: transformers' own; it is extended.
            before: how many places it holds.
        """
        after = before + embeddings.shape[1]
        hidden: Tensor = self.language_model.get_decoder()(
            inputs_embeds=embeddings,
            attention_mask=torch.ones((1, after), dtype=torch.long, device=embeddings.device),
            position_ids=torch.arange(before, after, device=embeddings.device)[None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of the decoder's hidden states [..., D], in 32 bits."""
        logits: Tensor = self.language_model.get_output_embeddings()(hidden)
        return logits.float()

    def features(self, pictures: Tensor) -> Tensor:
        """Connected features [I, P, D] of pictures [I, 3, H, W], or of the encoder's features of them
        [I, P, width]."""
        return self._connected(self.vision(pictures) if pictures.ndim == 4 else pictures)

    def _cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.head(hidden), targets, reduction="sum")

    def _connected(self, features: Tensor) -> Tensor:
        """[I, P, width of the vision encoder] -> [I, P, D]."""
        connected: Tensor = self.connector(features.to(self._weight_dtype))
        return connected

    @property
    def _weight_dtype(self) -> torch.dtype:
        """What the connector computes in."""
        return next(self.connector.parameters()).dtype

    def _place(self, ids: Tensor, pictures: Tensor, patches: Tensor) -> Tensor:
        """Embeddings [B, T, D] of ``ids``, with ``pictures`` [I, P, D] in the places ``patches`` [I * P] of
        the flattened ids. What fits is seen from the shapes: no device is waited for."""
        if len(patches) != pictures.shape[0] * pictures.shape[1]:
            count = pictures.shape[0] * pictures.shape[1]
            raise ValueError(f"{len(patches)} image tokens for pictures of {count} patches together")
        embeddings: Tensor = self.language_model.get_input_embeddings()(ids)
        placed = embeddings.flatten(0, 1).index_copy(0, patches, pictures.flatten(0, 1).to(embeddings.dtype))
        return placed.view_as(embeddings)

    def embed_connected(self, ids: Tensor, pictures: Tensor | None) -> Tensor:
        """Embeddings [B, T, D] of ``ids``, with connected features ``pictures`` [I, P, D] in their places."""
        embeddings: Tensor = self.language_model.get_input_embeddings()(ids)
        places = ids == self.image_token
        count = 0 if pictures is None else pictures.shape[0] * pictures.shape[1]
        if int(places.sum()) != count:
            raise ValueError(f"{int(places.sum())} image tokens for pictures of {count} patches together")
        if pictures is None:
            return embeddings
        return embeddings.masked_scatter(places[..., None], pictures.to(embeddings.dtype))

    def set_trained(self, parts: set[str]) -> dict[str, int]:
        """Train only ``parts`` (``vision``, ``connector``, ``llm``); the one place where this is decided.

        Of an LLM that has adapters, these alone are trained; of the encoder, the layers that are read.

        Returns:
            How many parameters each part trains.
        """
        self.vision.set_trained("vision" in parts)
        self.connector.requires_grad_("connector" in parts)
        self.language_model.requires_grad_("llm" in parts)
        if "llm" in parts and has_adapters(self.language_model):
            train_adapters(self.language_model)
        return {
            name: sum(p.numel() for p in module.parameters() if p.requires_grad)
            for name, module in self.parts().items()
        }

    def parts(self) -> dict[str, nn.Module]:
        return {"vision": self.vision, "connector": self.connector, "llm": self.language_model}

    @property
    def device(self) -> torch.device:
        return next(self.connector.parameters()).device
