"""``vistune chat``: a conversation in the terminal, or through pipes."""

from vistune.serve.terminal.chat import chat
from vistune.serve.terminal.options import ChatOptions

__all__ = ["ChatOptions", "chat"]
