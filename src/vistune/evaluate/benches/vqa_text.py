"""Answers made comparable, by the rules that the VQA evaluation publishes (visualqa.org/evaluation).

Lower case; punctuation to spaces, but for apostrophes, colons, and commas and points inside numbers; number
words to digits; articles dropped; missing apostrophes of contractions restored. Human and model answers are
treated alike.
"""

from __future__ import annotations

import re
from functools import lru_cache

_COMMA_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")
_PUNCTUATION = str.maketrans(dict.fromkeys(';/[]"{}()=+\\_-><@`,?!', " "))  # % $ & # * stay, as in its code
_PERIOD = re.compile(r"\.(?!\d)")
_NUMBERS = {
    word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_NUMBERS["none"] = "0"
_ARTICLES = {"a", "an", "the"}

_NEGATED = "ai are ca could did does do had has have is might must need ought sha should was were wo would"
_ENDED = {  # ending -> words that take it; none that is another word without its apostrophe (well, its, hell)
    "'d": "he how it somebody someone something that there they where who you",
    "'ll": "how it somebody someone something that there they what who why you",
    "'m": "i",
    "'re": "there they what why you",
    "'s": "he how somebody someone that there what when where who why",
    "'ve": "could couldn't hadn't i might mightn't must not should shouldn't they we what where who would"
    " wouldn't you",
    "'d've": "he i it she somebody someone something there they we who y'all you",
}
_OTHERS = "ma'am o'clock 'ow's'at 'twas y'all y'all'll"


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """The answer's words in the form in which they are compared; may be empty (*a*)."""
    text = _COMMA_IN_NUMBER.sub("", answer.lower().replace("’", "'")).translate(_PUNCTUATION)
    words = (_NUMBERS.get(word, word) for word in _PERIOD.sub("", text).split())
    return " ".join(_CONTRACTIONS.get(word.replace("'", ""), word) for word in words if word not in _ARTICLES)


def _contractions() -> dict[str, str]:
    """Contractions by their letters alone."""
    whole = [word + "n't" for word in _NEGATED.split()] + _OTHERS.split()
    whole += (word + ending for ending, words in _ENDED.items() for word in words.split())
    return {word.replace("'", ""): word for word in whole}


_CONTRACTIONS = _contractions()
