"""Annotated images -> instruction data: the plan, the samples and their checks, the files."""
