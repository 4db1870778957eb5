"""What scikit-image, SciPy, NumPy and pandas offer in place of each standard function, on the same pixels."""

from __future__ import annotations

import numpy as np
import pandas as pd
from skimage import filters, measure

from benchmarks.counterparts import images, objects, tables
from benchmarks.counterparts.case import Case, tables_differ
from benchmarks.counterparts.images import blurred, stretched
from benchmarks.counterparts.material import Material
from benchmarks.counterparts.tables import regions
from openhcs_jupyter import functions as f

__all__ = ["Case", "Material", "cases", "pipeline_case"]


def pipeline_case(m: Material) -> Case:
    """Normalise, blur, threshold, label and measure two channels."""

    def ours() -> pd.DataFrame:
        stack = f.gaussian_blur(f.percentile_normalize(m.channels, per="plane"), 2)
        _, labels = f.label_objects(f.threshold(stack[:1]))
        return f.measure_objects(stack, labels, context=m.context)

    def theirs() -> pd.DataFrame:
        smooth = np.stack([blurred(stretched(plane), 2) for plane in m.channels])
        labels = measure.label(smooth[0] > filters.threshold_otsu(smooth[0]))
        return regions(labels, smooth)

    return Case("pipeline", ours, theirs, tables_differ, 0.01, "scikit-image: gaussian, otsu, label, regionprops")


def cases(m: Material) -> list[Case]:
    """List every standard function with its counterpart."""
    kinds = (images.intensities, images.filtered, images.along_z, objects.places, objects.segments)
    return [case for kind in (*kinds, tables.measures, tables.tables) for case in kind(m)]
