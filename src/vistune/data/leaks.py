"""Leaks of the source: text that shows that its writer read captions and boxes and saw no picture."""

from __future__ import annotations

import re

_NUMBER = r"-?\d*\.?\d+"
_SAYS = (
    r"(?:do(?:es)?(?:\s+not|n['’]t)|only|also|all|both|clearly|explicitly|simply|just)?\s*"
    r"(?:sa(?:y|ys|id)|tells?|told|states?|stated|mention(?:s|ed)?|indicate[sd]?|note[sd]?|suggest(?:s|ed)?|"
    r"describe[sd]?|specif(?:y|ies|ied)|provide[sd]?|give[sn]?|impl(?:y|ies|ied)|refers?|reads?|confirms?|lists?)\b"
)
_GIVEN = r"(?:provided|given|supplied|above|accompanying|input)"
_PATTERNS = (
    # captions: any that are spoken of as known; "write a caption" and "closed captions" speak of none
    r"\b(?:the|this|these|those|that|each|every|all|both|some|several|most|many|one\s+of\s+the|your|its|"
    r"first|second|third|last|other|another|image|picture|photo|provided|given|above|five|four|three|two)\s+"
    r"(?:\w+\s+)?captions?\b(?!\s+this\b)",
    rf"\bcaptions?\s+{_SAYS}",
    r"\b(?:in|from|by|of|on|per|to)\s+captions\b",
    # boxes
    r"\bbounding[\s-]+box(?:es)?\b",
    r"\bbbox(?:es)?\b",
    r"\b(?:object\s+)?(?:detections?|annotations?)\s+(?:of\s+the\s+image\s+)?"
    rf"(?:{_SAYS}|provided|given|data|list)",
    r"\b(?:according\s+to|based\s+on|given|from|in)\s+the\s+(?:object\s+)?(?:detections?|annotations?)\b",
    rf"\b{_GIVEN}\s+(?:object\s+)?(?:detections?|annotations?|boxes)\b",
    # coordinates; not "she coordinates the event"
    r"\b(?:the|their|its|these|those|box|pixel|image|normali[sz]ed|spatial|object|with|by|at|of|"
    rf"x|y|{_GIVEN})[\s-]+coordinates\b(?!\s+(?:the|a|an|his|her|their|with)\b)",
    rf"\bcoordinates?\s*(?:[:=(\[]\s*{_NUMBER}|(?:of|for)\s+(?:the|each|every|all)\b)",
    rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}\s*\]",
    r"[\[(]\s*[01]?\.\d+(?:\s*,\s*[01]?\.\d+){1,3}\s*[\])]",
    # descriptions and texts that somebody was given
    rf"\b(?:descriptions?|sentences?|annotators?)\s+{_SAYS}",
    rf"\b{_GIVEN}\s+(?:image\s+|picture\s+|textual\s+|text\s+)?"
    r"(?:descriptions?|sentences?|context|information|text|details)\b",
    rf"\b(?:descriptions?|context|information|details|text)\s+(?:that\s+(?:is|are|was|were)\s+)?{_GIVEN}\b",
    r"\b(?:according\s+to|based\s+on|as\s+(?:stated|mentioned|described|noted)\s+in)\s+(?:the|these|your)\s+"
    r"(?:image\s+|picture\s+|photo\s+|textual\s+)?(?:descriptions?|sentences?)\b",
    r"\b(?:mentioned|specified|stated|described|provided)\s+in\s+(?:the|these|any|your)\s+"
    r"(?:image\s+|picture\s+|photo\s+)?(?:descriptions?|sentences?|context|information|texts?)\b",
    r"\b(?:is|are|was|were|as)(?:n['’]t)?\s+(?:(?:also|only|not|never|explicitly|specifically|directly)\s+)*"
    r"(?:mentioned|described\s+as)\b",
)
_LEAK = re.compile("|".join(f"(?:{pattern})" for pattern in _PATTERNS), re.IGNORECASE)
_HINT = re.compile(
    r"caption|box|coordinate|annotat|detection|descri|sentence|context|information|text|details|mentioned|[\[(]\s*[-.\d]",
    re.IGNORECASE,
)


def find_leak(text: str) -> str | None:
    """The first words in ``text`` that speak of captions, boxes, coordinates or a description, or None.

    "The caption says", "based on the bounding boxes", "[0.1, 0.2, 0.5, 0.9]" leak the source. "A captain",
    "cardboard boxes", "a parking brake", "she coordinates the team" and "write a caption" do not.
    """
    if not _HINT.search(text):  # most texts; far quicker than all the patterns
        return None
    found = _LEAK.search(text)
    return found.group(0) if found else None
