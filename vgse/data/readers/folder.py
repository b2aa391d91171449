"""A folder tree: the first folder below the root is the class."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from vgse.data.readers.pages import page
from vgse.errors import DataError
from vgse.storage import FileInfo, Storage


class FolderPages:
    """Turns pages of files into pages of rows and remembers which classes it has met."""

    def __init__(self, storage: Storage, root: str) -> None:
        self._storage, self._root = storage, root
        self._start = len(root.rstrip("/")) + 1
        self._classes: set[str] = set()

    def page(self, files: Sequence[FileInfo]) -> pa.Table | None:
        """The rows of the files that lie in a class folder; None where there is none."""
        inside = [(file.uri[self._start :], file) for file in files if "/" in file.uri[self._start :]]
        if not inside:
            return None
        names, found = zip(*inside, strict=True)
        classes = [name.split("/", 1)[0] for name in names]
        self._classes.update(classes)
        return page(names, classes, [file.uri for file in found], size=[file.size for file in found])

    def check(self) -> None:
        """Called after the last page.

        Raises:
            DataError: there is no class folder with images, or one without.
        """
        folders = self._storage.list_folders(self._root)
        empty = [name for name in folders if name not in self._classes and not name.startswith((".", "_"))]
        if empty:
            raise DataError(
                f"data.images: {len(empty)} class folder(s) below {self._root} hold no image: {', '.join(empty[:10])}",
                "add images or remove the folder(s)",
            )
        if not self._classes:
            raise DataError(
                f"data.images: {self._root} holds no class folders with images",
                "expected ROOT/CLASS/IMAGE, .parquet files or .tar files",
            )
