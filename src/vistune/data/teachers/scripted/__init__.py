"""The offline teacher: a deterministic writer that sees what a text-only LLM sees, captions and boxes."""

from vistune.data.teachers.scripted.questions import MOST_TURNS, QUESTION_KINDS, kind_of_question
from vistune.data.teachers.scripted.teacher import OfflineTeacher

__all__ = ["MOST_TURNS", "QUESTION_KINDS", "OfflineTeacher", "kind_of_question"]
