"""From the values that a DICOM file stores to what a viewer shows, by stated rules.

Monochrome values go through the modality LUT or rescale, then the VOI LUT or else the first window,
and what those put out becomes 0..255. Without either, values of up to 8 unsigned bits are taken
over their whole range (8-bit ones as they are), others from the least to the greatest of the frame;
a constant frame is black. MONOCHROME1 is inverted at the end. A value that is not a number is
black. Windows in the functional groups of enhanced objects are not looked for. Palette colours go
through their LUT, YBR becomes RGB, and colours of other than 8 bits are scaled by their whole range
(16 bits: divided by 257). Anything else is unreadable rather than guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neroli.errors import UnreadableImage

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Array = np.ndarray[Any, Any]

OF_JPEG_2000 = frozenset({"YBR_ICT", "YBR_RCT"})  # its decoders make RGB of these
COLOURS = OF_JPEG_2000 | {"RGB", "YBR_FULL", "YBR_FULL_422"}
KINDS = COLOURS | {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"}
"""Photometric interpretations for which there is a rule."""


def shown(values: Array, dataset: Dataset) -> Array:
    """Decoded values as uint8 ``[H, W]`` or ``[H, W, 3]``, by the rules above.

    Raises:
        UnreadableImage: if there is no rule for them.
    """
    kind, bits = dataset.PhotometricInterpretation, int(dataset.get("BitsStored") or 64)
    if (values.ndim == 3) != (kind in COLOURS):
        raise UnreadableImage(f"has values of shape {list(values.shape)}, which {kind} has not")
    if kind.startswith("YBR_FULL") and values.dtype != np.uint8:
        raise UnreadableImage(f"has {kind} pixels of {bits} bits, for which there is no rule")
    with np.errstate(all="ignore"):  # what overflows or is no number is dealt with below
        if kind in COLOURS:
            shares = values / (2**bits - 1)
        elif kind == "PALETTE COLOR":
            shares = _palette_colours(values, dataset)
        else:
            shares = _displayed(values, bits, dataset)
        finite = np.nan_to_num(shares, nan=0.0, posinf=1.0, neginf=0.0)
        pixels: Array = np.rint(finite.clip(0, 1) * 255).astype(np.uint8)
    return np.invert(pixels) if kind == "MONOCHROME1" else pixels


def _displayed(stored: Array, bits: int, dataset: Dataset) -> Array:
    """Monochrome values as shares of what the display can show, from 0 to 1."""
    values, rising = stored, True
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if modality := dataset.get("ModalityLUTSequence"):
        item, rising = modality[0], False
        values, _ = _looked_up(stored, item.LUTDescriptor, item.LUTData, dataset)
    elif slope is not None and intercept is not None:
        values, rising = stored.astype(np.float64) * slope + intercept, slope > 0
    if lut := dataset.get("VOILUTSequence"):
        values, depth = _looked_up(values, lut[0].LUTDescriptor, lut[0].LUTData, dataset)
        return np.asarray(values / (2**depth - 1))
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if center is not None and width is not None and width > 0:  # 0 and 0 stand for no window
        function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
        return _windowed(values.astype(np.float64), center, width, function)
    if rising and bits <= 8 and dataset.get("PixelRepresentation") == 0:
        return np.asarray(stored / (2**bits - 1))
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    return (values - low) / (high - low) if high > low else np.zeros(values.shape)


def _windowed(values: Array, center: float, width: float, function: str) -> Array:
    """Values through a window, from 0 to 1 where not clipped (DICOM PS3.3 C.11.2.1)."""
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
        if width <= 0:  # a step
            return np.where(values <= center, 0.0, 1.0)
    elif function != "LINEAR_EXACT":
        raise UnreadableImage(
            f"has the VOI LUT function {function[:20]!r}, which is not known",
            "has a VOI LUT function that is not known",
        )
    return (values - center) / width + 0.5


def _palette_colours(values: Array, dataset: Dataset) -> Array:
    """Red, green and blue of palette positions, ``[H, W, 3]`` from 0 to 1."""
    from pydicom.pixels.processing import apply_color_lut

    if "RedPaletteColorLookupTableData" not in dataset:  # it has a segmented palette
        colours = apply_color_lut(values, dataset)[..., :3]
        return colours / np.iinfo(colours.dtype).max
    channels = []
    for colour in ("Red", "Green", "Blue"):
        descriptor = dataset[f"{colour}PaletteColorLookupTableDescriptor"].value
        data = dataset[f"{colour}PaletteColorLookupTableData"].value
        channel, bits = _looked_up(values, descriptor, data, dataset)
        channels.append(channel / (2**bits - 1))
    return np.stack(channels, axis=-1)


def _looked_up(values: Array, descriptor: Any, data: Any, dataset: Dataset) -> tuple[Array, int]:
    """Values through a lookup table, and of how many bits its entries are (PS3.3 C.11.1.1).

    pydicom's own functions keep positions in the type of the entries, which wraps around when an
    8-bit table has more than 256 of them.
    """
    entries, first, bits = (int(number) for number in descriptor)
    entries = entries or 2**16
    if not 1 <= bits <= 16:
        raise UnreadableImage(f"has a lookup table of {bits} bits")
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        data = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * entries else np.uint8)
    table = np.atleast_1d(np.asarray(data, np.int64))[:entries]
    positions = np.rint(np.nan_to_num(values.astype(np.float64)) - first)
    return table[positions.clip(0, len(table) - 1).astype(np.int64)], bits


def _number(dataset: Dataset, keyword: str) -> float | None:
    """The first value of an element, None if it is missing or empty."""
    value = dataset.get(keyword)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else None
    if value is None or value == "":
        return None
    if not np.isfinite(float(value)):
        raise UnreadableImage(f"has a {keyword} that is not a finite number")
    return float(value)
