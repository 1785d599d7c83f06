"""A template's layout as a Jinja chat template, for transformers' processors and other engines."""

from __future__ import annotations

from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.template.layout import Template


def chat_template(template: Template, begin: str = "") -> str:
    """The layout as Jinja: messages hold text, or a list of ``image`` and ``text`` parts, pictures first.

    Args:
        begin: the tokenizer's BOS as text, where the tokenizer puts one before a text.
    """
    if template.source is not None:
        return f"{_say(begin)}{template.source}" if begin else template.source
    first = template.human if template.first is None else template.first
    later = (begin if template.restart else "") + template.human
    stop = "{{ eos_token }}" if template.stop is None else _say(template.stop)
    return (
        f"{_say(begin + template.system)}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}"
        f"{{% if loop.first %}}{_say(first)}{{% else %}}{_say(later)}{{% endif %}}"
        f"{_question(template)}{_say(template.after_question)}"
        "{% elif message['role'] == 'assistant' %}"
        f"{_say(template.gpt + template.lead)}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
        "{% endif %}"
        f"{_say(template.trail)}{stop}{_say(template.after_stop)}"
        "{% else %}"
        "{{ raise_exception('Only user and assistant speak in this template.') }}"
        "{% endif %}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{_say(template.gpt)}{{% endif %}}"
    )


def _say(text: str) -> str:
    return f"{{{{ {text!r} }}}}" if text else ""


def _question(template: Template) -> str:
    image = IMAGE_PLACEHOLDER + ("\n" if template.questions else "")
    whole = "{{ message['content'] }}" if template.questions else ""
    text = "{{ part['text'] }}" if template.questions else ""
    return (
        f"{{% if message['content'] is string %}}{whole}{{% else %}}"
        f"{{% for part in message['content'] if part['type'] == 'image' %}}{_say(image)}{{% endfor %}}"
        f"{{% for part in message['content'] if part['type'] == 'text' %}}{text}{{% endfor %}}"
        "{% endif %}"
    )
