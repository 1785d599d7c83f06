"""Curation of image-text pairs: balance the concepts of a caption file by its noun phrases (paper App. E)."""

from vistune.data.curate.run import Curated, Settings, curate

__all__ = ["Curated", "Settings", "curate"]
