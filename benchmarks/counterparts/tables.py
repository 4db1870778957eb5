"""What scikit-image and SciPy offer for measuring, counting, tracking and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import ndimage, stats
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from skimage import filters, measure

from benchmarks.counterparts.case import Case, largest, tables_differ
from benchmarks.counterparts.material import Material
from openhcs_jupyter import functions as f

if TYPE_CHECKING:
    from numpy.typing import NDArray


_REGION = (
    "label",
    "centroid",
    "area",
    "bbox",
    "perimeter",
    "axis_major_length",
    "axis_minor_length",
    "eccentricity",
    "orientation",
    "intensity_mean",
    "intensity_std",
    "intensity_min",
    "intensity_max",
)


def regions(labels: NDArray[Any], stack: NDArray[Any]) -> pd.DataFrame:
    """Measure labelled objects."""
    return pd.DataFrame(measure.regionprops_table(labels, np.moveaxis(stack, 0, -1), properties=_REGION))


def measures(m: Material) -> list[Case]:
    """Compare what measures objects."""

    def coefficients() -> Any:
        # Their sums of uint16 overflow; their threshold, in float32, is one grey value beside the exact one.
        one, other = m.channels.astype(np.float64)
        high, low = (plane > filters.threshold_otsu(plane) for plane in m.channels)
        return [
            measure.pearson_corr_coeff(one, other)[0],
            measure.manders_overlap_coeff(one, other),
            measure.manders_coloc_coeff(one, low),
            measure.manders_coloc_coeff(other, high),
        ]

    def counted() -> Any:
        return [len(np.unique(m.nuclei)) - 1, np.mean(m.nuclei > 0)]

    return [
        Case(
            "measure_objects",
            lambda: f.measure_objects(m.channels, m.nuclei, context=m.context),
            lambda: regions(m.nuclei, m.channels),
            tables_differ,
            1e-4,
            "skimage.measure.regionprops_table",
        ),
        Case(
            "count_objects",
            lambda: list(f.count_objects(m.channels, m.nuclei).values()),
            counted,
            largest,
            1e-9,
            "numpy.unique",
        ),
        Case(
            "colocalisation",
            lambda: f.colocalisation(m.channels).iloc[0, 2:],
            coefficients,
            largest,
            1e-4,
            "skimage.measure.manders_coloc_coeff ...",
        ),
    ]


def tables(m: Material) -> list[Case]:
    """Compare what makes tables of tables."""
    features = [name for name in m.objects.columns if name != "well"]
    wells = f.well_medians(m.objects)
    high, low = [f"{row}01" for row in "ABCDEFGH"], [f"{row}12" for row in "ABCDEFGH"]
    tracks = f.track_objects(m.film)
    branches = f.trace_neurites(m.channels[1:], f.grow_labels(m.channels, m.nuclei, 5))[2]

    def by_well(statistic: Any) -> Any:
        codes, names = pd.factorize(m.objects["well"], sort=True)
        values = m.objects[features].to_numpy()
        index = np.arange(len(names))
        return np.stack([statistic(values[:, i], codes, index) for i in range(len(features))], axis=1)

    def summarised() -> Any:
        return np.stack([by_well(ndimage.mean), by_well(ndimage.standard_deviation)], axis=2)

    def scores() -> Any:
        values = wells[features].to_numpy()
        scored = (values - np.median(values, axis=0)) / stats.median_abs_deviation(values, axis=0, scale="normal")
        return wells.assign(**dict(zip(features, scored.T, strict=True)))

    def quality() -> Any:
        both = [wells.loc[wells["well"].isin(names), features].to_numpy() for names in (high, low)]
        means, spreads = [values.mean(axis=0) for values in both], [stats.tstd(values, axis=0) for values in both]
        factor = 1 - 3 * (spreads[0] + spreads[1]) / np.abs(means[0] - means[1])
        columns = {"feature": features, "z_prime": factor, "positive_mean": means[0], "positive_sd": spreads[0]}
        return pd.DataFrame(columns | {"negative_mean": means[1], "negative_sd": spreads[1]})

    def followed() -> Any:
        values = m.film[["t", "y", "x"]].to_numpy()
        track, moved = np.zeros(len(values), dtype=np.int64), np.full(len(values), np.nan)
        times = np.unique(values[:, 0])
        before = np.flatnonzero(values[:, 0] == times[0])
        track[before] = np.arange(1, len(before) + 1)
        for t in times[1:]:
            now = np.flatnonzero(values[:, 0] == t)
            distance = cdist(values[before, 1:], values[now, 1:])
            one, other = linear_sum_assignment(np.where(distance <= 20, distance, 1e6))
            keep = distance[one, other] <= 20
            track[now[other[keep]]] = track[before[one[keep]]]
            moved[now[other[keep]]] = distance[one[keep], other[keep]]
            before = now
        return m.film.assign(track=track, moved=moved)

    def ways() -> Any:
        track, t = tracks["track"].to_numpy(), tracks["t"].to_numpy()
        index = np.unique(track)
        path = ndimage.sum_labels(tracks["moved"].fillna(0).to_numpy(), track, index)
        first = np.ravel(ndimage.minimum_position(t, track, index))
        last = np.ravel(ndimage.maximum_position(t, track, index))
        ends = tracks[["y", "x"]].to_numpy()
        away = np.hypot(*(ends[last] - ends[first]).T)
        columns = {
            "track": index,
            "first": t[first],
            "last": t[last],
            "points": ndimage.sum_labels(t > 0, track, index),
        }
        columns |= {"path": path, "distance": away, "straightness": away / path, "speed": path / (t[last] - t[first])}
        return pd.DataFrame(columns)

    def lengths() -> Any:
        cell = branches["cell"].to_numpy()
        index = np.unique(cell)
        found = {"cell": index}
        found["trees"] = ndimage.labeled_comprehension(
            branches["tree"].to_numpy(), cell, index, lambda trees: len(np.unique(trees)), int, 0
        )
        found["branches"] = ndimage.sum_labels(np.ones(len(cell)), cell, index)
        found["ends"] = ndimage.sum_labels(branches["ends"].to_numpy(), cell, index)
        found["length"] = ndimage.sum_labels(branches["length"].to_numpy(), cell, index)
        found["longest"] = ndimage.maximum(branches["length"].to_numpy(), cell, index)
        return pd.DataFrame(found)

    def worst(*names: str) -> Any:
        return lambda a, b: max(largest(a[name], b[name]) for name in names)

    def summary(a: pd.DataFrame, b: NDArray[Any]) -> float:
        most = 0.0
        for i, name in enumerate(features):
            most = max(
                most,
                largest(a[f"{name}_mean"], b[:, i, 0]),
                largest(a[f"{name}_std"], b[:, i, 1] * np.sqrt(500 / 499)),
            )
        return most

    return [
        Case(
            "well_medians",
            lambda: f.well_medians(m.objects),
            lambda: by_well(ndimage.median),
            lambda a, b: largest(a[features], b),
            1e-9,
            "scipy.ndimage.median",
        ),
        Case(
            "well_summary",
            lambda: f.well_summary(m.objects),
            summarised,
            summary,
            1e-9,
            "scipy.ndimage.mean, standard_deviation",
        ),
        Case(
            "robust_z_scores",
            lambda: f.robust_z_scores(wells),
            scores,
            lambda a, b: largest(a[features], b[features]),
            1e-3,
            "scipy.stats.median_abs_deviation",
        ),
        Case(
            "z_prime",
            lambda: f.z_prime(wells, high, low),
            quality,
            lambda a, b: largest(a.set_index("feature").loc[features, "z_prime"], b["z_prime"]),
            1e-6,
            "scipy.stats.tstd",
        ),
        Case(
            "track_objects",
            lambda: f.track_objects(m.film),
            followed,
            worst("track"),
            0,
            "scipy.optimize.linear_sum_assignment",
        ),
        Case(
            "measure_tracks",
            lambda: f.measure_tracks(tracks),
            ways,
            worst("first", "last", "points", "path", "distance", "speed"),
            1e-9,
            "scipy.ndimage.sum_labels, minimum_position ...",
        ),
        Case(
            "measure_neurites",
            lambda: f.measure_neurites(branches),
            lengths,
            worst("cell", "length", "longest", "ends", "trees", "branches"),
            1e-9,
            "scipy.ndimage.sum_labels ...",
        ),
    ]
