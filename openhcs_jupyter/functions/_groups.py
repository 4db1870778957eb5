"""Rows of a table that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd


class Groups(NamedTuple):
    """Rows by the values of some columns, groups in the order of these."""

    of: NDArray[np.int64]
    """The group of each row, from 0."""
    first: NDArray[np.int64]
    """The first row of each group."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many rows each group has."""
        return np.bincount(self.of, minlength=len(self.first))

    def sums(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        """Add up a column by group."""
        return np.bincount(self.of, weights=values, minlength=len(self.first)).astype(np.float64)


def group_rows(table: pd.DataFrame, columns: Sequence[str]) -> Groups:
    """Group the rows of a table by some of its columns."""
    import pandas as pd

    codes = np.zeros(len(table), dtype=np.int64)
    for name in columns:
        places, values = pd.factorize(table[name], sort=True)
        codes = codes * max(len(values), 1) + places
    _, first, of = np.unique(codes, return_index=True, return_inverse=True)
    return Groups(of.astype(np.int64), first.astype(np.int64))
