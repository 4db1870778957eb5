"""The colour of each channel: its own, else that of its wavelength, else that of its name."""

from __future__ import annotations

from collections.abc import Sequence

from openhcs_jupyter.streaming.layers import Layer

# Bands of emission as microscopists colour them, light enough to be seen on black.
_BANDS = ((485, "4D79FF"), (505, "19D3F3"), (560, "2EE06B"), (592, "FFD43B"), (645, "FF5C4D"), (2000, "F25CFF"))
_NAMES = {
    "4D79FF": ("dapi", "hoechst", "blue", "bfp", "405"),
    "19D3F3": ("cfp", "cyan"),
    "2EE06B": ("gfp", "fitc", "alexa 488", "488", "green"),
    "FFD43B": ("yfp", "cy3", "tritc", "yellow"),
    "FF5C4D": ("rfp", "mcherry", "texas", "dsred", "568", "594", "red"),
    "F25CFF": ("cy5", "647", "far", "magenta"),
    "FFFFFF": ("bright", "phase", "dic", "transmi"),
}
_GREY = "FFFFFF"


def channel_colours(layers: Sequence[Layer]) -> list[str]:
    """Give each channel of an image its colour, ``RRGGBB``; two channels that would be alike are told apart.

    Parameters
    ----------
    layers
        The channels of one image.
    """
    if len(layers) == 1:
        return [_own(layers[0]) or _GREY]
    wanted = [_own(layer) for layer in layers]
    palette = [colour for _, colour in _BANDS]
    free = [colour for colour in palette if colour not in wanted]
    given: list[str] = []
    for colour in wanted:
        if colour is None or (colour in given and free):
            colour = free.pop(0) if free else _GREY
        given.append(colour)
    return given


def _own(layer: Layer) -> str | None:
    if layer.color:
        return layer.color.lstrip("#").upper()
    if layer.emission_nm:
        return next(colour for end, colour in _BANDS if layer.emission_nm < end or end == _BANDS[-1][0])
    name = (layer.channel or "").lower()
    return next((colour for colour, words in _NAMES.items() if any(word in name for word in words)), None)
