"""Exact match, the strictest way to be right."""

from __future__ import annotations


def exact_match(answer: str, reference: str) -> bool:
    """Equal but for case, outer white space and a final full stop."""
    return _normal(answer) == _normal(reference)


def _normal(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
