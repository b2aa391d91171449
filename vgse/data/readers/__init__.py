"""Where images come from, and their bytes, read ahead of their use."""

from vgse.data.readers.reading import read_images

__all__ = ["read_images"]
