"""Models of timm, with the preprocessing of its data configuration."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from torch import Tensor, nn

from neroli.data.preprocessing import Preprocessing
from neroli.errors import ModelError
from neroli.models.loaded import MAX_CLASSES, LoadedModel, extra, nearest
from neroli.models.torchvision import import_torchvision
from neroli.models.weights import classes_in


def load(
    name: str, state: Mapping[str, Tensor] | None, num_classes: int | None = None
) -> LoadedModel:
    """The network ``NAME`` or ``NAME.TAG`` of timm, for as many classes as in ``state``.

    Args:
        name: of the network.
        state: its weights, if there are any.
        num_classes: instead of those in ``state``.

    Raises:
        ModelError: if timm is missing, has no such network, or cannot make it.
    """
    import_torchvision()
    timm = extra("timm", "timm", f"timm:{name}")
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise ModelError(f"timm has no model {name!r}{nearest(name, known)}")
    try:
        model: nn.Module = timm.create_model(name, pretrained=False)
        classes = num_classes
        if classes is None and state is not None:
            classes = _classes(model, state)
        if classes is not None:
            model = timm.create_model(name, pretrained=False, num_classes=classes)
    except RuntimeError as error:
        raise ModelError(f"timm cannot make {name!r}: {error}.") from None
    return LoadedModel(model, preprocessing(model), _class_names(model))


def preprocessing(model: nn.Module) -> Preprocessing | None:
    """The preprocessing that a model of timm states; None of other models."""
    if not isinstance(getattr(model, "pretrained_cfg", None), Mapping):
        return None
    import_torchvision()
    data = importlib.import_module("timm.data").resolve_model_data_config(model)
    height, width = data["input_size"][1:]
    share = data["crop_pct"]
    resize = (int(height / share), int(width / share))
    return Preprocessing(
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        resize=resize[0] if height == width and data["crop_mode"] != "squash" else resize,
        crop=(height, width),
        interpolation=data["interpolation"],
    )


def _classes(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """By the weights of timm's classifier layer, or of the first of several."""
    heads = getattr(model, "get_classifier", lambda: ())()
    heads = heads if isinstance(heads, tuple) else (heads,)
    inside = {id(module) for head in heads for module in head.modules()}
    for path, module in model.named_modules():
        weight = state.get(f"{path}.weight")
        if id(module) in inside and weight is not None and weight.ndim > 1:
            return min(len(weight), MAX_CLASSES)
    return classes_in(state, model)


def _class_names(model: nn.Module) -> list[str] | None:
    """The names of ImageNet's classes, where timm knows that the model has these."""
    data = importlib.import_module("timm.data")
    subset = data.infer_imagenet_subset(model)
    if subset is None:
        return None
    info = data.ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(info.num_classes())]
