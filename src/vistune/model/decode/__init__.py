"""The decode loop: prompts as token ids in, token ids out. The only one in the project.

Evaluation, chat and serving drive the same :class:`Decoder`.
"""

from vistune.model.decode.complete import Prompt, complete, stream
from vistune.model.decode.decoder import Decoder, Row
from vistune.model.decode.keys import Stretch

__all__ = ["Decoder", "Prompt", "Row", "Stretch", "complete", "stream"]
