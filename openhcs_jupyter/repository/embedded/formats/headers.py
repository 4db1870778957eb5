"""Reading the headers of many TIFF files at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from openhcs_jupyter.repository.embedded.formats.base import Progress
from openhcs_jupyter.repository.embedded.formats.tiff import (
    TiffFaultError,
    TiffHeader,
    TiffPages,
    read_header,
    read_pages,
)

T = TypeVar("T")


def read_headers(files: Sequence[tuple[str, int]], progress: Progress | None = None) -> list[TiffHeader | str]:
    """Read all headers, in threads because folders are often far away.

    Parameters
    ----------
    files
        Path and size in bytes of each file.
    progress
        Called with how many files are read and how many there are.

    Returns
    -------
    list of TiffHeader or str
        One a file, in their order; a sentence that names the file where it cannot be used.
    """
    return _read_all(read_header, files, progress)


def read_all_pages(files: Sequence[tuple[str, int]], progress: Progress | None = None) -> list[TiffPages | str]:
    """Read the headers of all pages of all files; parameters as of `read_headers`."""
    return _read_all(read_pages, files, progress)


def _read_all(
    read: Callable[[Path, int], T], files: Sequence[tuple[str, int]], progress: Progress | None
) -> list[T | str]:
    def one(file: tuple[str, int]) -> T | str:
        path, size = file
        try:
            return read(Path(path), size)
        except TiffFaultError as fault:
            return f"{path} {fault}"

    found: list[T | str] = []
    pool = ThreadPoolExecutor(8, thread_name_prefix="headers")
    try:
        for header in pool.map(one, files, chunksize=64):
            found.append(header)
            if progress is not None and (len(found) % 64 == 0 or len(found) == len(files)):
                progress(len(found), len(files))
    finally:
        pool.shutdown(cancel_futures=True)
    return found
