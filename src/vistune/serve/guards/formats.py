"""The formats of pictures that strangers may send.

Pillow reads many more. Some of them start other programs or hand the bytes to old libraries.
"""

from __future__ import annotations

MEDIA_TYPES = {  # Pillow's name of a format -> its media type
    "BMP": "image/bmp",
    "GIF": "image/gif",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # several JPEGs in one file, as phones write them
    "PNG": "image/png",
    "WEBP": "image/webp",
}
OPENED = ("BMP", "GIF", "JPEG", "PNG", "WEBP")  # the names to ask Pillow for; MPO is found through JPEG
NAMES = "PNG, JPEG, GIF, WebP or BMP"
_ALSO_KNOWN_AS = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-ms-bmp": "image/bmp"}


def media_type(text: str) -> str | None:
    """The registered name of a picture's media type; None for what is not read."""
    name = text.strip().lower()
    name = _ALSO_KNOWN_AS.get(name, name)
    return name if name in MEDIA_TYPES.values() else None
