"""Where images come from: their listing, page by page, and their bytes, read ahead of their use."""

from vgse.data.readers.layouts import list_pages
from vgse.data.readers.reading import read_images

__all__ = ["list_pages", "read_images"]
