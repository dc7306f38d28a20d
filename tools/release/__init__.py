"""Everything that is published of a version: `python -m tools.release` makes it."""
