"""An optimizer's saved state, taken over as it is."""

from __future__ import annotations

from typing import Any

import torch


@torch.no_grad()
def restore(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """Copy ``state_dict`` into the state that ``optimizer`` has, dtype and device staying what they are.

    torch's ``load_state_dict`` casts every moment to its weight's dtype and moves it to the weight's device:
    moments of 32 bits for weights of 16 would be rounded, and those in the CPU's memory would leave it.
    """
    for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        group |= {name: value for name, value in saved.items() if name != "params"}
        for weight, key in zip(group["params"], saved["params"], strict=True):
            for name, value in state_dict["state"][key].items():
                optimizer.state[weight][name].copy_(value)
