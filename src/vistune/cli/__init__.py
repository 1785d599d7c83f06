"""The command line: one verb a step, in the order data flows. Heavy imports wait until a verb needs them."""

from vistune.cli.main import app, main

__all__ = ["app", "main"]
