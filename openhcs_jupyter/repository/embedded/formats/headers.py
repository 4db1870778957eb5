"""Reading the headers of many TIFF files at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from openhcs_jupyter.repository.embedded.formats.base import Progress
from openhcs_jupyter.repository.embedded.formats.tiff import TiffFaultError, TiffHeader, read_header


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
    headers: list[TiffHeader | str] = []
    pool = ThreadPoolExecutor(8, thread_name_prefix="headers")
    try:
        for header in pool.map(_header, files, chunksize=64):
            headers.append(header)
            if progress is not None and (len(headers) % 64 == 0 or len(headers) == len(files)):
                progress(len(headers), len(files))
    finally:
        pool.shutdown(cancel_futures=True)
    return headers


def _header(file: tuple[str, int]) -> TiffHeader | str:
    path, size = file
    try:
        return read_header(Path(path), size)
    except TiffFaultError as fault:
        return f"{path} {fault}"
