"""How the page is laid out, and which event calls what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.utils import is_in_or_equal

from vistune.page.render import load_template
from vistune.serve.guards.formats import NAMES
from vistune.serve.page.events import SCALES, Events
from vistune.serve.page.looked import inert
from vistune.serve.page.samples import Sample
from vistune.serve.page.talk import Desk
from vistune.serve.page.votes import BETTER

Models = Mapping[str, Mapping[str, Any]]

_MOST_EVENTS = 1_000  # under way at once, all browsers together; the API says when it is full
_CLEARED = (600, 6 * 3600)  # every ten minutes, uploads older than six hours go
_SYSTEM_FONTS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif")
_SYSTEM_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """System fonts: a page that asks nobody else for anything."""
    return gr.themes.Soft(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        font=[gr.themes.Font(name) for name in _SYSTEM_FONTS],
        font_mono=[gr.themes.Font(name) for name in _SYSTEM_MONO],
    )


def lay_out(events: Events, models: Models, samples: Sequence[Sample], votes: bool, look: bool) -> gr.Blocks:
    """The whole page."""
    with gr.Blocks(
        title="vistune", fill_width=True, analytics_enabled=False, delete_cache=_CLEARED
    ) as blocks:
        desk = gr.State(Desk())
        gr.HTML(
            "<h1>vistune</h1><p>Show it a picture, and ask.</p>", elem_classes="vt-title", js_on_load=None
        )
        with gr.Tab("Chat"), gr.Row():
            with gr.Column(scale=4, min_width=320):
                parts = _chat(samples, votes)
            with gr.Column(scale=1, min_width=260):
                choices = _settings(models, parts)
        if look:
            _look(events, desk)
        _wire(events, desk, parts, choices, votes)
    blocks.max_threads = _MOST_EVENTS  # of these Gradio's queue makes its places
    blocks.queue(default_concurrency_limit=None, max_size=None, api_open=False)
    return blocks


def _chat(samples: Sequence[Sample], votes: bool) -> dict[str, Any]:
    """The talks, side by side, and what one does with them."""
    parts: dict[str, Any] = {}
    examples = [{"text": sample.question, "files": [sample.file], "icon": sample.file} for sample in samples]
    with gr.Row():
        for side in ("left", "right"):
            with gr.Column(min_width=300, visible=side == "left") as column:
                parts[side] = gr.Chatbot(
                    show_label=False,
                    elem_classes="vt-chat",
                    elem_id=f"vt-{side}",
                    height="62vh",
                    min_height=320,
                    render_markdown=False,
                    sanitize_html=True,
                    allow_tags=False,
                    latex_delimiters=[],
                    buttons=["copy", "copy_all"],
                    feedback_options=["Like", "Dislike", "Flag"],
                    examples=examples if side == "left" else None,  # type: ignore[arg-type]
                    placeholder="Add a picture below, or try one of these." if side == "left" else "",
                )
                parts[f"{side} status"] = gr.HTML("", elem_classes="vt-status", js_on_load=None)
            parts[f"{side} column"] = column
    parts["box"] = _question_box()
    with gr.Row():
        parts["again"] = gr.Button("↻ Answer again", size="sm", elem_id="vt-again")
        parts["clear"] = gr.Button("New conversation", size="sm", elem_id="vt-clear")
    with gr.Row(visible=False) as row:
        parts["better"] = [gr.Button(label, size="sm") for label in BETTER] if votes else []
    parts["better row"] = row
    return parts


def _question_box() -> gr.MultimodalTextbox:
    box = gr.MultimodalTextbox(
        show_label=False,
        placeholder=f"Ask about a picture. Drop, paste or pick one ({NAMES}).",
        file_types=["image"],
        file_count="multiple",
        max_plain_text_length=100_000,  # longer, it would become a file
        autofocus=True,
        elem_id="vt-box",
    )
    move = box.async_move_resource_to_block_cache

    async def uploads_only(file: Any) -> str | None:
        """A browser may name any file or address here; only what was uploaded is taken."""
        if file is not None and not is_in_or_equal(file, box.GRADIO_CACHE):
            raise gr.Error("Only uploaded pictures are taken.", print_exception=False)
        return await move(file)

    box.async_move_resource_to_block_cache = uploads_only  # type: ignore[method-assign, assignment]
    return box


def _settings(models: Models, parts: dict[str, Any]) -> list[Any]:
    """Components whose values go along with each question, in the order that the events take."""
    names = list(models)
    left = gr.Dropdown(names, value=names[0], label="Model", interactive=True)
    compare = gr.Checkbox(False, label="Compare with a second model", visible=len(names) > 1)
    right = gr.Dropdown(names, value=names[min(1, len(names) - 1)], label="Second model", visible=False)
    with gr.Accordion("About the model", open=False):
        card = gr.HTML(card_of(models, names[0]), js_on_load=None)
    with gr.Accordion("Settings", open=False):
        temperature = gr.Slider(0.0, 2.0, value=0.2, step=0.05, label="Temperature", info="0: no chance")
        top_p = gr.Slider(0.05, 1.0, value=1.0, step=0.05, label="Top-p")
        tokens = gr.Number(
            None, label="Most new tokens", minimum=1, precision=0, info="Empty: the server's own"
        )
        seed = gr.Number(None, label="Seed", precision=0, info="Empty: drawn anew each time")

    def toggled(on: bool) -> list[Any]:
        return [gr.Column(visible=on), gr.Dropdown(visible=on), gr.Row(visible=on and bool(parts["better"]))]

    def cards(one: str, other: str, both: bool) -> str:
        return card_of(models, *dict.fromkeys((one, other) if both else (one,)))

    compare.input(toggled, compare, [parts["right column"], right, parts["better row"]], **_QUIET)
    for component in (left, right, compare):
        component.input(cards, [left, right, compare], card, **_QUIET)
    return [left, right, compare, temperature, top_p, tokens, seed]


_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def _wire(events: Events, desk: gr.State, parts: dict[str, Any], choices: list[Any], votes: bool) -> None:
    left, right, box = parts["left"], parts["right"], parts["box"]
    shown = [desk, left, right, parts["left status"], parts["right status"], box]
    box.submit(events.submit, [box, desk, *choices], shown, **_QUIET)
    box.stop(events.stop, None, None, **_QUIET)
    left.example_select(events.sample, [desk, *choices], shown, **_QUIET)
    gr.on([parts["again"].click, left.retry, right.retry], events.again, [desk, *choices], shown, **_QUIET)
    gr.on([parts["clear"].click, left.clear, right.clear], events.clear, [desk], shown, **_QUIET)
    if votes:
        for side, chat in (("left", left), ("right", right)):
            chat.like(_vote(events, side), [desk], None, **_QUIET)
        for label, button in zip(BETTER, parts["better"], strict=True):
            button.click(_better(events, label), [desk], None, **_QUIET)


def _vote(events: Events, side: str) -> Any:
    async def handler(desk: Desk, event: gr.LikeData) -> None:
        await events.vote(side, desk, event)

    return handler


def _better(events: Events, label: str) -> Any:
    async def handler(desk: Desk) -> None:
        await events.better(label, desk)

    return handler


def _look(events: Events, desk: gr.State) -> None:
    with gr.Tab("What it looked at") as tab:
        with gr.Row():
            chosen = gr.Dropdown([], label="Answer", scale=3, interactive=True)
            scale = gr.Radio(SCALES, value=SCALES[0], label="A word's map", scale=2)
        page = gr.HTML("", js_on_load=None)
    inputs = [chosen, scale, desk]
    tab.select(events.answers, [desk], chosen, **_QUIET).then(events.look, inputs, page, **_QUIET)
    gr.on([chosen.input, scale.input], events.look, inputs, page, **_QUIET)


def card_of(models: Models, *names: str) -> str:
    """HTML of what is known of one model, or of two."""
    template = load_template(__package__, "card.html.j2")
    cards = []
    for name in names:
        rows = {"name": name, **models.get(name, {})}
        cards.append(template.render(rows=[(key, _readable(value)) for key, value in rows.items()]))
    return inert("<hr>".join(cards))


def _readable(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "—" if value is None else str(value)
