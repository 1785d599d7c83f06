"""vistune: visual instruction tuning, whole."""

__version__ = "0.1.0"
