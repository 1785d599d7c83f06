"""The whole chain on the sample world, and the page about what it did."""

from vistune.quickstart.run import FULL, Size, quickstart

__all__ = ["FULL", "Size", "quickstart"]
