"""Templates -> one HTML file that needs nothing else: everything is inside, all text is escaped."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template
    from PIL import Image

_WIDEST, _JPEG_QUALITY = 480, 88  # pictures on a page, in pixels


def load_template(package: str, name: str) -> Template:
    """A template of ``package``; it may include and import the files of this package, too.

    Filters: ``percent`` of a share, ``number`` with thousands apart, ``points`` of a difference of shares.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(place, "") for place in (package, __package__)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{share:.1%}"
    environment.filters["number"] = lambda count: f"{count:,}"
    environment.filters["points"] = lambda share: f"{100 * share:+.1f}".replace("-", "−")
    return environment.get_template(name)


def data_uri(picture: Image.Image) -> str:
    """A picture as the value of ``src``; made small in place."""
    picture.thumbnail((_WIDEST, _WIDEST))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
