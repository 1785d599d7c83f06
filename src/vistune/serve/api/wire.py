"""What a client may send, as OpenAI's clients write it.

A parameter of OpenAI's that would be ignored here is refused, unless its value asks for nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from vistune.serve.api.errors import UnsupportedError
from vistune.serve.engine.engine import BadRequestError, Sampling

# OpenAI's default is 1. Small models write better without draws, and the same question is answered alike
# by `vistune chat`, by evaluation and here.
DEFAULT_TEMPERATURE = 0.0
_MOST_STOPS, _STOP_CHARACTERS = 4, 200
_HARMLESS = {  # told about the client, or how a hosted service should treat it
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "user",
}
_ASKS_NOTHING: dict[str, tuple[Any, ...]] = {  # null does so always
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TextPart(_Wire):
    type: Literal["text"]
    text: str


class ImageUrl(_Wire):
    """``detail`` asks how finely a picture is looked at; a model here has one way of looking."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(_Wire):
    type: Literal["image_url"]
    image_url: ImageUrl


def _part(value: Any) -> str:
    return f"<{value.get('type') if isinstance(value, dict) else getattr(value, 'type', None)}>"


def _words_or_parts(value: Any) -> str:
    return "<words>" if isinstance(value, str) else "<parts>"


def _role(value: Any) -> str:
    role = value.get("role") if isinstance(value, dict) else getattr(value, "role", None)
    return "<system>" if role == "developer" else f"<{role}>"


Words: TypeAlias = Annotated[str, Tag("<words>")]
Texts: TypeAlias = Annotated[
    Words | Annotated[list[TextPart], Tag("<parts>")], Discriminator(_words_or_parts)
]
Part: TypeAlias = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[ImagePart, Tag("<image_url>")],
    Discriminator(
        _part,
        custom_error_type="part",
        custom_error_message="a part is an object whose `type` is text or image_url",
    ),
]
Parts: TypeAlias = Annotated[Words | Annotated[list[Part], Tag("<parts>")], Discriminator(_words_or_parts)]


class SystemMessage(_Wire):
    role: Literal["system", "developer"]
    content: Texts


class UserMessage(_Wire):
    role: Literal["user"]
    content: Parts


class AssistantMessage(_Wire):
    """An earlier answer. Clients send back what they were given, with its empty fields."""

    role: Literal["assistant"]
    content: Texts
    refusal: None = None
    annotations: list[None] | None = Field(None, max_length=0)
    audio: None = None
    function_call: None = None
    tool_calls: list[None] | None = Field(None, max_length=0)


Message: TypeAlias = Annotated[
    Annotated[SystemMessage, Tag("<system>")]
    | Annotated[UserMessage, Tag("<user>")]
    | Annotated[AssistantMessage, Tag("<assistant>")],
    Discriminator(
        _role,
        custom_error_type="role",
        custom_error_message="a message is an object whose `role` is system, developer, user or assistant",
    ),
]


class StreamOptions(_Wire):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class ChatBody(BaseModel):
    """The body of ``POST /v1/chat/completions``. ``temperature`` is 0, greedy, where it is not given."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    model: str
    messages: list[Message] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(None, gt=0, lt=2**31)
    max_completion_tokens: int | None = Field(None, gt=0, lt=2**31)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _few_stops(cls, value: Any) -> Any:
        stops = [value] if isinstance(value, str) else value
        if value is None:
            return value
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise ValueError("expected a text or a list of texts")
        if len(stops) > _MOST_STOPS or any(not 0 < len(stop) <= _STOP_CHARACTERS for stop in stops):
            raise ValueError(f"up to {_MOST_STOPS} texts of 1 to {_STOP_CHARACTERS} characters are read")
        if any("\ud800" <= character <= "\udfff" for stop in stops for character in stop):
            raise ValueError("half a character (a lone surrogate) can never be written")
        return value

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> ChatBody:
        for name, value in (self.model_extra or {}).items():
            if name not in _HARMLESS:
                _refuse(name, value)
        if self.stream_options is not None and not self.stream:
            raise BadRequestError("`stream_options` is only read where `stream` is true.", "stream_options")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise BadRequestError(
                "Give `max_completion_tokens` or `max_tokens`, which mean the same, not both.", "max_tokens"
            )
        return self

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, max_tokens: int | None) -> Sampling:
        """How the answer is written, with these tokens at most."""
        return Sampling(
            temperature=DEFAULT_TEMPERATURE if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            max_tokens=max_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
        )


def _refuse(name: str, value: Any) -> None:
    if name not in _ASKS_NOTHING:
        raise UnsupportedError(f"Unknown parameter: `{name}`.", name)
    if value is None or any(_same(value, neutral) for neutral in _ASKS_NOTHING[name]):
        return
    neutral = " or ".join(repr(value) for value in _ASKS_NOTHING[name]) or "null"
    raise UnsupportedError(
        f"`{name}` is not supported here and would be ignored. Leave it out, or send {neutral}.", name
    )


def _same(value: Any, neutral: Any) -> bool:
    if neutral == 0 or neutral == 1:
        return isinstance(value, int | float) and value == neutral
    return bool(value == neutral)
