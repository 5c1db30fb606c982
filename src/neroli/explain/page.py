"""What all pages of HTML share: their templates, their pictures, and where they may be written."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from PIL import Image

from neroli.errors import ArtefactError, InvalidInput
from neroli.explain import wording
from neroli.explain.facts import plain

SUFFIXES = (".html", ".htm")
SMALL = 200
"""Pictures with a longer side below this are enlarged, their pixels left square."""


def checked_path(path: Path | str) -> Path:
    """The path, if a page may be written there.

    Raises:
        InvalidInput, ArtefactError: if it may not.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"A report is written to an .html file, got {str(path)!r}.")
    if path.is_dir():
        raise ArtefactError(f"{str(path)!r} is a folder: name a file to write the report to.")
    return path


def picture_address(pixels: np.ndarray[Any, Any], largest: int = 512, *, exact: bool = True) -> str:
    """A picture as the address of an image that holds it.

    Args:
        pixels: ``[h, w, 3]`` uint8.
        largest: pixels of its longer side; a larger picture is made smaller.
        exact: whether every pixel is kept as it is; a JPEG is about a fifth of the bytes.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((largest, largest))
    content = io.BytesIO()
    if exact:
        image.save(content, "PNG", optimize=True)
    else:
        image.save(content, "JPEG", quality=85, subsampling=0, optimize=True)
    kind = "png" if exact else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(content.getvalue()).decode()


@cache
def templates(package: str = "neroli.explain") -> Environment:
    """The templates of a package, and behind them those of explanations, for all pages to use."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("neroli.explain")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percentage"] = wording.percentage
    environment.filters["plain"] = plain
    return environment
