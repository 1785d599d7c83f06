"""Conversation -> token ids and labels, in one pass; one renderer for training and inference."""

from vistune.template.encoded import Encoded, Folded
from vistune.template.jinja import chat_template
from vistune.template.layout import TEMPLATES, Role, Segment, Template
from vistune.template.own import TEMPLATE_NAMES, find_template
from vistune.template.render import Renderer

__all__ = [
    "TEMPLATES",
    "TEMPLATE_NAMES",
    "Encoded",
    "Folded",
    "Renderer",
    "Role",
    "Segment",
    "Template",
    "chat_template",
    "find_template",
]
