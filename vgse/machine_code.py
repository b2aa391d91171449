"""Plain Python loops over arrays turned into machine code by Numba, for any room's kernels."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(*, fastmath: bool | set[str] = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: compiled at the first call, lock-free (nogil), and kept on disk for later processes.

    Numba writes its cache whole (a temporary file, then a rename) and keys it by the source and the kind of CPU, so
    workers that start together may share it. Where no place can be written to, every process compiles for itself.
    """
    options: dict[str, Any] = {"fastmath": fastmath, "nogil": True, "error_model": "numpy"}

    def compile_function(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # Numba found no place it may write to.
            return numba.njit(**options)(function)

    return compile_function
