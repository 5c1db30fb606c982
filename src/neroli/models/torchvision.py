"""Models of torchvision, and importing it beside a CPU build of torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neroli.data.preprocessing import Preprocessing
from neroli.errors import ModelError
from neroli.models.loaded import MAX_CLASSES, LoadedModel, extra, nearest
from neroli.models.weights import classes_in

_MISSING_OPERATOR = "torchvision::nms does not exist"
_operators: Any = None


def import_torchvision() -> None:
    """Import torchvision, also beside a CPU build of torch, for which its operators are missing.

    Its wheel then fails on import because ``nms`` and ``qnms`` are not registered. Classification
    models need neither, so their schemas are declared, and the import is tried again; never where
    torchvision imports as it is.
    """
    global _operators
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return  # the caller's own import explains what is missing
    except RuntimeError as error:
        if not lacks_operators(error):
            raise
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operators = library
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")


def lacks_operators(error: RuntimeError) -> bool:
    """Whether an import failed for want of torchvision's operators."""
    return _MISSING_OPERATOR in str(error)


def load(
    name: str, state: Mapping[str, Tensor] | None, num_classes: int | None = None
) -> LoadedModel:
    """The network ``NAME`` or ``NAME.WEIGHTS`` of torchvision, for as many classes as in ``state``.

    The preprocessing is that of the named weights (``resnet50.IMAGENET1K_V1``), else of the default
    ones for this network; nothing of them is downloaded.

    Args:
        name: of the network.
        state: its weights, if there are any.
        num_classes: instead of those in ``state``.

    Raises:
        ModelError: if torchvision is missing, or has no such network or weights.
    """
    import_torchvision()
    models = extra("torchvision", "torchvision.models", f"torchvision:{name}")
    network, _, version = name.partition(".")
    known = models.list_models(module=models)
    if network not in known:
        raise ModelError(f"torchvision has no classifier {network!r}{nearest(network, known)}")
    options = models.get_model_weights(network)
    if version and version not in options.__members__:
        raise ModelError(
            f"torchvision has no weights {version!r} of {network}; it has "
            f"{', '.join(options.__members__) or 'none'}."
        )
    with torch.device("meta"):  # its layers and their shapes, without numbers
        outline: nn.Module = models.get_model(network, weights=None)
    if hasattr(outline, "transform_input"):
        raise ModelError(
            f"torchvision's {network} may transform its input, which weights files do not record: "
            "write a function that makes yours, and name it package.module:function."
        )
    classes = num_classes
    if classes is None and state is not None:
        classes = classes_in(state, outline)
    size = {} if classes is None else {"num_classes": classes}
    if classes is not None and classes > MAX_CLASSES:
        raise ModelError(f"The weights are of {classes:,} classes, more than any classifier has.")
    module: nn.Module = models.get_model(network, weights=None, **size)
    if not options.__members__:
        return LoadedModel(module)
    chosen = options[version] if version else options.DEFAULT
    names = chosen.meta["categories"]
    fits = classes is None or classes == len(names)
    return LoadedModel(module, _preprocessing(chosen.transforms()), list(names) if fits else None)


def _preprocessing(transforms: Any) -> Preprocessing:
    """Of the ``ImageClassification`` transforms that torchvision's weights come with."""
    return Preprocessing(
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        resize=_size(transforms.resize_size),
        crop=_size(transforms.crop_size),
        interpolation=transforms.interpolation.value,
    )


def _size(sizes: list[int]) -> int | tuple[int, int]:
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])
