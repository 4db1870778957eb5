"""What scikit-image, SciPy and NumPy offer for intensities, filters and projections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage import exposure, filters, morphology

from benchmarks.counterparts.case import Case, largest, relative, rounded
from benchmarks.counterparts.material import Material
from openhcs_jupyter import functions as f

if TYPE_CHECKING:
    from numpy.typing import NDArray


def stretched(plane: NDArray[Any]) -> NDArray[np.uint16]:
    """Stretch a plane between percentiles."""
    low, high = np.percentile(plane, (1, 99.8))
    return rounded(exposure.rescale_intensity(plane.astype(np.float64), in_range=(low, high), out_range=(0, 65535)))


def blurred(plane: NDArray[Any], sigma: float) -> NDArray[np.uint16]:
    """Blur a plane."""
    return rounded(filters.gaussian(plane, sigma, preserve_range=True))


def intensities(m: Material) -> list[Case]:
    """Compare what changes intensities."""
    two, limits = m.channels, pd.DataFrame({"low": [150.0], "high": [1500.0]})

    def plate_percentiles() -> Any:
        reducer = f.PlatePercentiles()
        state = reducer.init()
        for stack in m.fields:
            state = reducer.update(state, stack[None])
        return list(reducer.finish(state).values())

    def estimate() -> Any:
        reducer = f.IlluminationEstimate(50)
        state = reducer.init()
        for stack in m.fields:
            state = reducer.update(state, stack[None])
        return reducer.finish(state)

    def estimated() -> Any:
        flat = filters.gaussian(m.fields.mean(axis=0), 50, mode="nearest")
        return flat / flat.mean()

    def normalized() -> Any:
        return rounded(exposure.rescale_intensity(two.astype(float), in_range=(150, 1500), out_range=(0, 65535)))

    def mixed() -> Any:
        return rounded(np.average(two, axis=0))[None]

    def divided() -> Any:
        return np.divide(two[1], two[0], out=np.zeros(two.shape[1:]), where=two[0] > 0)[None]

    def without() -> Any:
        rest = rounded(two[1] - 0.2 * two[0])
        return np.stack([two[0], rest])

    return [
        Case(
            "percentile_normalize",
            lambda: f.percentile_normalize(two[:1]),
            lambda: stretched(two[0])[None],
            largest,
            1,
            "numpy.percentile, skimage.exposure",
        ),
        Case(
            "PlatePercentiles",
            plate_percentiles,
            lambda: np.percentile(m.fields, (1, 99.8)),
            largest,
            1e-6,
            "numpy.percentile",
        ),
        Case(
            "normalize_with",
            lambda: f.normalize_with(two, limits),
            normalized,
            largest,
            1,
            "skimage.exposure.rescale_intensity",
        ),
        Case(
            "equalize_histogram",
            lambda: f.equalize_histogram(two),
            lambda: exposure.equalize_hist(two, 65536) * 65535,
            largest,
            40,
            "skimage.exposure.equalize_hist",
        ),
        Case(
            "IlluminationEstimate",
            estimate,
            estimated,
            lambda a, b: largest(a[200:-200, 200:-200], b[200:-200, 200:-200]),
            0.01,
            "numpy.mean, skimage.filters.gaussian",
        ),
        Case(
            "correct_illumination",
            lambda: f.correct_illumination(two, m.flat),
            lambda: rounded(two / m.flat),
            largest,
            1,
            "numpy",
        ),
        Case("composite", lambda: f.composite(two), mixed, largest, 1, "numpy.average"),
        Case("subtract_channel", lambda: f.subtract_channel(two, 0, 0.2), without, largest, 1, "numpy"),
        Case("ratio", lambda: f.ratio(two, 1, 0), divided, relative, 1e-6, "numpy.divide"),
    ]


def filtered(m: Material) -> list[Case]:
    """Compare filters."""
    one = m.channels[:1]
    plane = m.channels[0]

    def background() -> Any:
        opened = morphology.opening(plane, morphology.disk(25))
        return rounded(np.maximum(plane - filters.gaussian(opened.astype(float), 12.5), 0))[None]

    def inner(a: NDArray[Any], b: NDArray[Any]) -> float:
        # The border is extended in other ways.
        return largest(a[:, 100:-100, 100:-100], b[:, 100:-100, 100:-100])

    return [
        Case(
            "gaussian_blur",
            lambda: f.gaussian_blur(one, 2),
            lambda: blurred(plane, 2)[None],
            largest,
            1,
            "skimage.filters.gaussian",
        ),
        Case(
            "sharpen",
            lambda: f.sharpen(one, 2, 1),
            lambda: rounded(filters.unsharp_mask(plane, 2, 1, preserve_range=True))[None],
            lambda a, b: float(np.quantile(np.abs(a.astype(float) - b), 0.999)),
            1,
            "skimage.filters.unsharp_mask",
        ),
        Case(
            "median",
            lambda: f.median(one, 1),
            lambda: ndimage.median_filter(plane, 3, mode="nearest")[None],
            largest,
            0,
            "scipy.ndimage.median_filter",
        ),
        Case(
            "top_hat",
            lambda: f.top_hat(one, 15, 1),
            lambda: morphology.white_tophat(plane, morphology.disk(15))[None],
            largest,
            0,
            "skimage.morphology.white_tophat",
        ),
        Case(
            "subtract_background",
            lambda: f.subtract_background(one, 25, 1),
            background,
            inner,
            2,
            "skimage.morphology.opening, gaussian",
        ),
    ]


def along_z(m: Material) -> list[Case]:
    """Compare what joins planes."""
    z = m.slices

    def sharpest() -> Any:
        details = [
            ndimage.laplace(filters.gaussian(plane, 1, preserve_range=True), mode="nearest").var() for plane in z
        ]
        best = int(np.argmax(details))
        return z[best : best + 1].copy()

    return [
        Case("max_projection", lambda: f.max_projection(z), lambda: z.max(axis=0)[None], largest, 0, "numpy.max"),
        Case("min_projection", lambda: f.min_projection(z), lambda: z.min(axis=0)[None], largest, 0, "numpy.min"),
        Case(
            "mean_projection",
            lambda: f.mean_projection(z),
            lambda: rounded(z.mean(axis=0))[None],
            largest,
            1,
            "numpy.mean",
        ),
        Case("sum_projection", lambda: f.sum_projection(z), lambda: z.sum(axis=0)[None], largest, 0, "numpy.sum"),
        Case("side_projection", lambda: f.side_projection(z), lambda: z.max(axis=1)[None], largest, 0, "numpy.max"),
        Case("focus_select", lambda: f.focus_select(z), sharpest, largest, 0, "scipy.ndimage.laplace"),
    ]
