"""What was done differently in two runs, as their ``scores.json`` tell it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ABSENT = "not written down"
_OF_PROMPTS = ("prompt", "template", "system")


@dataclass(frozen=True)
class Setting:
    """One setting of ``made`` that differs."""

    name: str
    a: str
    b: str

    @property
    def of_prompt(self) -> bool:
        """It decides what the model reads."""
        return any(word in self.name.lower() for word in _OF_PROMPTS)


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Setting]:
    """Settings of ``made`` that differ, and vistune's version where it does; those of prompts first."""
    told_a, told_b = dict(_told(a)), dict(_told(b))
    found = [
        Setting(name, told_a.get(name, ABSENT), told_b.get(name, ABSENT))
        for name in dict.fromkeys((*told_a, *told_b))
        if told_a.get(name) != told_b.get(name)
    ]
    return sorted(found, key=lambda setting: not setting.of_prompt)


def _told(scores: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _flat(scores.get("made") or {}, "")
    if "vistune" in scores:
        yield "scored by vistune", str(scores["vistune"])


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """``{"decoding": {"beams": 1}}`` -> ``("decoding.beams", "1")``."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
