"""A question as a checkpoint reads it."""

from __future__ import annotations

from vistune.conversation import Conversation, ask, human
from vistune.model.checkpoint import Checkpoint
from vistune.model.decode import Prompt
from vistune.question import Question


def prompt_of(checkpoint: Checkpoint, question: Question, seeing: bool = True) -> Prompt:
    """A question as a checkpoint reads it: alone; its picture, where it has one, before its words.

    ``details["picture_last"]`` puts the picture behind the words, unless the model knows it in front only.
    """
    last = bool(question.details.get("picture_last")) and checkpoint.recipe.picture != "first"
    image = question.image if seeing else None
    talk = Conversation(question.id, (human(*ask(question.text, image, picture_first=not last)),))
    return Prompt(checkpoint.renderer.encode_prompt(talk).ids, (image,) if image else ())
