"""The parts assembled: vision encoder -> connector -> LLM.

Shapes: B rows, T positions, N pictures, P patches a picture, D the LLM's width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vistune.model.connector import Connector
from vistune.model.vision import VisionEncoder


class Llava(nn.Module):
    """LLaVA (paper Sec. 4.1): the LLM reads connected patch features where a picture stands.

    Args:
        language_model: any decoder LLM of transformers.
        image_token: id of the token that holds a picture's place, once for each patch.
    """

    def __init__(
        self, vision: VisionEncoder, connector: Connector, language_model: Any, image_token: int
    ) -> None:
        super().__init__()
        self.vision, self.connector, self.language_model = vision, connector, language_model
        self.image_token = image_token

    def embed(self, ids: Tensor, pixels: Tensor | None) -> Tensor:
        """Embeddings [B, T, D] of ``ids`` [B, T], with features of ``pixels`` [N, 3, H, W] in their places.

        Pictures fill the image tokens of the rows in reading order.
        """
        embeddings = self.language_model.get_input_embeddings()(ids)
        if pixels is None:
            return embeddings
        features = self.connector(self.vision(pixels))
        places = ids == self.image_token
        if int(places.sum()) != features.shape[0] * features.shape[1]:
            raise ValueError(
                f"{int(places.sum())} image tokens for {features.shape[0]} pictures of "
                f"{features.shape[1]} patches"
            )
        return embeddings.masked_scatter(places[..., None], features.to(embeddings.dtype))

    def forward(
        self, ids: Tensor, attention_mask: Tensor, pixels: Tensor | None, positions: Tensor
    ) -> Tensor:
        """Logits [M, V] at the M chosen positions; only these go through the LM head.

        Args:
            ids: [B, T]; attention_mask: [B, T], 0 where padded; pixels: [N, 3, H, W].
            positions: [B, T] bool, M of them true.
        """
        hidden = self.language_model.get_decoder()(
            inputs_embeds=self.embed(ids, pixels), attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        return self.language_model.get_output_embeddings()(hidden[positions])

    def set_trained(self, parts: set[str]) -> dict[str, int]:
        """Train only ``parts`` (``connector``, ``llm``); the one place where this is decided.

        Returns:
            How many parameters each part trains.
        """
        counts = {}
        for name, module in self.parts().items():
            module.requires_grad_(name in parts)
            counts[name] = sum(p.numel() for p in module.parameters() if p.requires_grad)
        return counts

    def parts(self) -> dict[str, nn.Module]:
        return {"vision": self.vision, "connector": self.connector, "llm": self.language_model}

    @property
    def device(self) -> torch.device:
        return next(self.connector.parameters()).device
