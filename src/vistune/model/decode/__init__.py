"""The decode loop: prompts as token ids in, token ids out. The only one in the project.

Evaluation, chat and serving drive the same :class:`Decoder`.
"""

from vistune.model.decode.complete import Prompt, complete, stream
from vistune.model.decode.decoder import Decoder
from vistune.model.decode.keys import Stretch
from vistune.model.decode.prefixes import Prefixes, marks_of
from vistune.model.decode.rows import Row
from vistune.model.decode.sampling import Sampler

__all__ = ["Decoder", "Prefixes", "Prompt", "Row", "Sampler", "Stretch", "complete", "marks_of", "stream"]
