"""Where annotated images come from: COCO's files, or plain JSON lines."""
