"""Models of Hugging Face transformers, from a local folder."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from neroli.data.preprocessing import Preprocessing
from neroli.errors import InvalidInput, ModelError, NeroliWarning, first_line
from neroli.models import timm
from neroli.models.loaded import LoadedModel, extra
from neroli.models.torchvision import import_torchvision

_CLOSE = 0.008
"""Of the range of pixels: more than one pixel's step in the smooth pictures, less than an error."""
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def load(folder: Path | str, state: Mapping[str, Tensor] | None) -> LoadedModel:
    """The image classifier that a folder holds: ``config.json``, weights, and an image processor.

    Args:
        folder: as ``save_pretrained`` leaves it; nothing is downloaded and no code in it is run.
        state: weights to be loaded instead of the folder's.

    Raises:
        ModelError: if transformers is missing, or there is no whole image classifier in the folder.
    """
    import_torchvision()
    transformers = extra("hf", "transformers", f"hf:{folder}")
    if not (Path(folder) / "config.json").is_file():
        raise ModelError(f"There is no transformers model in {str(folder)!r} (no config.json).")
    _check_config(folder)
    automatic = transformers.AutoModelForImageClassification
    try:
        if state is None:
            with _quiet(transformers.utils.logging):
                module, report = automatic.from_pretrained(
                    folder, **_LOCAL, output_loading_info=True
                )
            _check_whole(folder, report)
        else:
            config = transformers.AutoConfig.from_pretrained(folder, **_LOCAL)
            module = automatic.from_config(config, trust_remote_code=False)
        names = [str(module.config.id2label[index]) for index in range(module.config.num_labels)]
    except ModelError:
        raise
    except Exception as error:  # whatever transformers meets in a damaged folder
        raise ModelError(
            f"Cannot load an image classifier from {str(folder)!r}: {first_line(error)}"
        ) from None
    unnamed = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    return LoadedModel(
        module.eval(), _preprocessing(folder, transformers, module), None if unnamed else names
    )


def _check_config(folder: Path | str) -> None:
    """Refuse what would run code of the folder, or fetch a network of timm from its hub."""
    for name in ("config.json", "preprocessor_config.json"):
        path = Path(folder) / name
        try:
            content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"Cannot read {str(path)!r}: {error}") from None
        if not isinstance(content, dict):
            raise ModelError(f"{str(path)!r} must hold a JSON object.")
        if "auto_map" in content:
            raise ModelError(
                f"{str(path)!r} asks to run code from its folder (auto_map), which neroli does "
                "not: make the model in a function of yours, and name it package.module:function."
            )
        architecture = str(content.get("architecture", ""))
        if content.get("model_type") == "timm_wrapper" and not architecture.isidentifier():
            raise ModelError(
                f"{str(path)!r} names the timm network {architecture!r}, which is not a plain "
                "name: its weights would be fetched from a hub."
            )


@contextmanager
def _quiet(settings: Any) -> Iterator[None]:
    """Without transformers' progress bar and its report, which the errors here replace."""
    shown, verbosity = settings.is_progress_bar_enabled(), settings.get_verbosity()
    settings.disable_progress_bar()
    settings.set_verbosity_error()
    try:
        yield
    finally:
        settings.set_verbosity(verbosity)
        if shown:
            settings.enable_progress_bar()


def _check_whole(folder: Path | str, report: Mapping[str, Any]) -> None:
    """transformers fills what is missing with random numbers; a guard of those would be useless."""
    missing = sorted(str(key) for key in report.get("missing_keys", ()))
    other = sorted(str(key) for key in report.get("mismatched_keys", ()))
    if missing or other:
        raise ModelError(
            f"The weights in {str(folder)!r} are not of an image classifier: "
            f"{', '.join([*missing, *other][:3])} missing or of another shape. Was it saved after "
            "it was trained to classify?"
        )


def _preprocessing(
    folder: Path | str, transformers: Any, module: nn.Module
) -> Preprocessing | None:
    """What the folder's image processor does, where a ``Preprocessing`` does the same."""
    inner = getattr(module, "timm_model", None)
    if inner is not None:
        return timm.preprocessing(inner)
    if not (Path(folder) / "preprocessor_config.json").is_file():
        return None
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **_LOCAL, backend="pil")
        for candidate in _candidates(processor):
            if all(_does_the_same(candidate, processor, picture) for picture in _PICTURES):
                return candidate
    except Exception as error:  # whatever transformers meets in odd settings
        raise ModelError(
            f"Cannot use the image processor in {str(folder)!r}: {first_line(error)}"
        ) from None
    warnings.warn(
        f"The {type(processor).__name__} in {str(folder)!r} does something that neroli's "
        "preprocessing does not (another channel order, padding): give images as float tensors "
        "that went through it, or say --resize, --crop, --mean and --std.",
        NeroliWarning,
        stacklevel=2,
    )
    return None


def _candidates(processor: Any) -> Iterator[Preprocessing]:
    """Preprocessings an image processor's settings may mean: their meaning differs by its class."""
    stated: dict[str, Any] = {name: getattr(processor, name, None) for name in _SETTINGS}
    mean, std = stated["image_mean"], stated["image_std"]
    if not stated["do_normalize"]:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    crop = _size(stated["crop_size"]) if stated["do_center_crop"] else None
    size = _size(stated["size"]) if stated["do_resize"] else None
    pairs: list[tuple[Any, Any]] = [(size, crop)]
    if isinstance(size, int):
        share = stated["crop_pct"] or 224 / 256  # LeViT's is not stated
        pairs += [
            ((size, size), crop),
            (int(size / share), crop or size),
            (int(size / share), size),
        ]
    for resize, cut in pairs:
        try:
            yield Preprocessing(
                mean=tuple(mean),
                std=tuple(std),
                resize=resize,
                crop=cut,
                interpolation=_RESAMPLING.get(int(stated["resample"] or 0), "bilinear"),  # type: ignore[arg-type]
            )
        except (InvalidInput, TypeError):
            continue


_SETTINGS = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_pct", "do_normalize",
    "image_mean", "image_std",
)  # fmt: skip


def _size(stated: Any) -> int | tuple[int, int] | None:
    if isinstance(stated, int):
        return stated
    size = dict(stated or {})
    if size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    return int(size["shortest_edge"]) if size.get("shortest_edge") else None


def _picture(height: int, width: int) -> Image.Image:
    """Smooth colours, all three channels different."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * y / height, 255 * x / width, 127 * (y / height + x / width)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


_PICTURES = (_picture(300, 411), _picture(500, 340))


def _does_the_same(candidate: Preprocessing, processor: Any, picture: Image.Image) -> bool:
    """Whether both agree, but for a crop that is rounded to the next pixel.

    The image processors themselves differ by that between their two backends.
    """
    try:
        theirs: Tensor = processor(picture, return_tensors="pt")["pixel_values"][0]
        ours = candidate(picture)
    except (InvalidInput, KeyError, ValueError):
        return False
    if ours.shape != theirs.shape:
        return False
    difference = (ours - theirs.float()) * torch.tensor(candidate.std).view(-1, 1, 1)
    return float(difference.abs().max()) < _CLOSE
