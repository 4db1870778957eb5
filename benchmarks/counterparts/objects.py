"""What scikit-image and SciPy offer for registration, stitching and segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage import feature, filters, measure, morphology, registration, segmentation

from benchmarks.counterparts.case import Case, largest, rounded, share
from benchmarks.counterparts.material import Material
from openhcs_jupyter import functions as f

if TYPE_CHECKING:
    from numpy.typing import NDArray


def places(m: Material) -> list[Case]:
    """Compare what moves and cuts planes."""
    positions = f.field_positions(m.fields, context=m.context)

    def registered() -> Any:
        shift, _, _ = registration.phase_cross_correlation(*m.moved, upsample_factor=20, normalization=None)
        return np.stack([m.moved[0], rounded(ndimage.shift(m.moved[1].astype(float), shift, order=1, mode="nearest"))])

    def placed() -> Any:
        stage = np.array(m.context.positions_um) / m.context.pixel_size_um
        size = np.array(m.fields.shape[1:])
        rows, wanted = [], []
        for a, b in ((0, 1), (2, 3), (0, 2), (1, 3)):
            offset = np.rint(stage[b] - stage[a]).astype(int)
            height, width = size - np.abs(offset)
            start_a, start_b = np.maximum(offset, 0), np.maximum(-offset, 0)
            first = m.fields[a, start_a[0] : start_a[0] + height, start_a[1] : start_a[1] + width]
            second = m.fields[b, start_b[0] : start_b[0] + height, start_b[1] : start_b[1] + width]
            window = np.outer(np.hanning(height), np.hanning(width))
            shift, _, _ = registration.phase_cross_correlation(
                (first - first.mean()) * window,
                (second - second.mean()) * window,
                upsample_factor=20,
                normalization=None,
            )
            rows.append((np.arange(4) == b).astype(float) - (np.arange(4) == a))
            wanted.append(offset + shift)
        found = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
        return found - found.min(axis=0)

    def laid() -> Any:
        places = positions[["y", "x"]].to_numpy()
        starts = np.floor(places).astype(int)
        height, width = m.fields.shape[1:]
        shape = tuple(starts.max(axis=0) + np.array([height + 1, width + 1]))
        total, weights = np.zeros(shape), np.zeros(shape)
        ramp = np.minimum(np.arange(height) + 1, height - np.arange(height)).astype(float)
        for plane, place, start in zip(m.fields, places, starts, strict=True):
            here = np.s_[start[0] : start[0] + height + 1, start[1] : start[1] + width + 1]
            padded = np.pad(plane.astype(float), ((0, 1), (0, 1)), mode="edge")
            weight = np.pad(np.outer(ramp, ramp), ((0, 1), (0, 1)))
            part = place - start
            weight = ndimage.shift(weight, part, order=1)
            total[here] += ndimage.shift(padded, part, order=1, mode="nearest") * weight
            weights[here] += weight
        return rounded(total / np.maximum(weights, 1e-12))[None]

    def mosaics(a: NDArray[Any], b: NDArray[Any]) -> float:
        inner = np.s_[:, 5:-5, 5:-5]
        b = b[:, : a.shape[1], : a.shape[2]]
        return float(np.quantile(np.abs(a[inner].astype(float) - b[inner]), 0.99))

    def inside(a: NDArray[Any], b: NDArray[Any]) -> float:
        return float(np.mean(np.abs(a[:, 20:-20, 20:-20].astype(float) - b[:, 20:-20, 20:-20])))

    film = np.stack([m.moved[0], m.moved[1]])
    return [
        Case(
            "crop",
            lambda: f.crop(m.slices, 40, 40, 1000, 1000),
            lambda: m.slices[:, 40:1040, 40:1040].copy(),
            largest,
            0,
            "numpy",
        ),
        Case(
            "bin_pixels",
            lambda: f.bin_pixels(m.slices, 2),
            lambda: rounded(measure.block_reduce(m.slices, (1, 2, 2), np.mean)),
            largest,
            1,
            "skimage.measure.block_reduce",
        ),
        Case(
            "register_channels",
            lambda: f.register_channels(m.moved),
            registered,
            inside,
            5,
            "skimage.registration, scipy.ndimage.shift",
        ),
        Case(
            "register_frames",
            lambda: f.register_frames(film),
            registered,
            inside,
            5,
            "skimage.registration, scipy.ndimage.shift",
        ),
        Case(
            "field_positions",
            lambda: f.field_positions(m.fields, context=m.context)[["y", "x"]],
            placed,
            largest,
            1,
            "skimage.registration, numpy.linalg.lstsq",
        ),
        Case(
            "stitch", lambda: f.stitch(m.fields, positions, trim=False), laid, mosaics, 3, "scipy.ndimage.shift, numpy"
        ),
    ]


def segments(m: Material) -> list[Case]:
    """Compare what finds objects."""
    dapi, gfp = m.channels[:1], m.channels[1:]
    mask = f.threshold(dapi)
    cells = f.segment_cells(gfp, m.nuclei)[1][0]

    def local() -> Any:
        return (dapi[0] > filters.threshold_local(dapi[0], 51, mode="nearest"))[None]

    def nuclei() -> Any:
        smooth = filters.gaussian(dapi[0], 1, preserve_range=True)
        filled = ndimage.binary_fill_holes(smooth > filters.threshold_otsu(rounded(smooth)))
        distance = ndimage.distance_transform_edt(filled)
        peaks = feature.peak_local_max(filters.gaussian(distance, 1), min_distance=5, labels=measure.label(filled))
        seeds = np.zeros(filled.shape, np.int32)
        seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        found = segmentation.watershed(-distance, seeds, mask=filled)
        return morphology.remove_small_objects(found, max_size=29)

    def grown() -> Any:
        smooth = filters.gaussian(gfp[0], 1, preserve_range=True)
        area = (rounded(smooth) > filters.threshold_otsu(rounded(smooth))) | (m.nuclei > 0)
        return segmentation.watershed(-smooth, m.nuclei, mask=area)

    def spots() -> Any:
        response = -ndimage.gaussian_laplace(dapi[0].astype(np.float64), 4 / np.sqrt(2))
        response -= np.median(response)
        noise = 1.4826 * np.median(np.abs(response))
        return feature.peak_local_max(response, min_distance=4, threshold_abs=20 * noise, exclude_border=False)

    def missed(a: pd.DataFrame, b: NDArray[Any]) -> float:
        near = cKDTree(b).query(a[["y", "x"]].to_numpy())[0] <= 2
        return 1 - 2 * float(near.sum()) / (len(a) + len(b))

    def lines() -> Any:
        response = filters.sato(gfp[0], sigmas=[1.5], black_ridges=False)
        outside = cells == 0
        noise = 1.4826 * np.median(np.abs(response[outside] - np.median(response[outside])))
        strong = filters.apply_hysteresis_threshold(np.where(outside, response, 0), 4 * noise, 8 * noise)
        skeleton = morphology.skeletonize(strong)
        around = ndimage.convolve(skeleton.astype(np.uint8), np.ones((3, 3), np.uint8), mode="constant")
        branches = measure.label(skeleton & (around < 4))
        return skeleton, measure.regionprops_table(
            branches, gfp[0], properties=("label", "perimeter", "intensity_mean")
        )

    def lines_differ(a: Any, b: Any) -> float:
        # The share of ours that is not near theirs, which has the rims of cells as well.
        away = ndimage.distance_transform_edt(~b[0])
        return float(np.mean(away[a[1][0] > 0] > 3))

    return [
        Case(
            "threshold",
            lambda: f.threshold(m.channels),
            lambda: m.channels > filters.threshold_otsu(m.channels),
            share,
            0,
            "skimage.filters.threshold_otsu",
        ),
        Case(
            "adaptive_threshold",
            lambda: f.adaptive_threshold(dapi),
            local,
            share,
            1e-4,
            "skimage.filters.threshold_local",
        ),
        Case(
            "label_objects",
            lambda: f.label_objects(mask)[1][0],
            lambda: measure.label(mask[0]),
            share,
            0,
            "skimage.measure.label",
        ),
        Case(
            "mask_with",
            lambda: f.mask_with(dapi, m.nuclei),
            lambda: np.where(m.nuclei > 0, dapi, 0),
            largest,
            0,
            "numpy.where",
        ),
        Case(
            "segment_nuclei",
            lambda: f.segment_nuclei(dapi)[1][0],
            nuclei,
            lambda a, b: share(a > 0, b > 0) + abs(int(a.max()) - len(np.unique(b)) + 1) / a.max(),
            0.03,
            "skimage.segmentation.watershed on distances",
        ),
        Case(
            "segment_cells",
            lambda: f.segment_cells(gfp, m.nuclei)[1][0],
            grown,
            share,
            1e-3,
            "skimage.segmentation.watershed",
        ),
        Case(
            "cytoplasm",
            lambda: f.cytoplasm(gfp, cells, m.nuclei),
            lambda: np.where(m.nuclei > 0, 0, cells),
            largest,
            0,
            "numpy.where",
        ),
        Case(
            "grow_labels",
            lambda: f.grow_labels(dapi, m.nuclei, 8),
            lambda: segmentation.expand_labels(m.nuclei, 8),
            share,
            0.005,
            "skimage.segmentation.expand_labels",
        ),
        Case(
            "find_spots",
            lambda: f.find_spots(dapi, 4, 20),
            spots,
            missed,
            0.05,
            "scipy.ndimage.gaussian_laplace, peak_local_max",
        ),
        Case(
            "trace_neurites",
            lambda: f.trace_neurites(gfp, cells),
            lines,
            lines_differ,
            0.05,
            "skimage.filters.sato, skeletonize, regionprops",
        ),
    ]
