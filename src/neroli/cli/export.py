"""``neroli export``: a classifier as one ONNX file, which runs without its code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neroli.cli.common import (
    Crop,
    Head,
    Interpolation,
    Json,
    PerChannel,
    Resize,
    Weights,
    emit,
    preprocessing_with,
    reported,
)

if TYPE_CHECKING:
    from torch import Tensor

    from neroli.classifier import Classifier


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="timm:NAME, torchvision:NAME, hf:FOLDER, export:FILE or package.module:factory."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write: .onnx.")],
    weights: Weights = None,
    head: Head = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder or table: on the first of these the file is compared with the network. "
            "[default: noise]"
        ),
    ] = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: PerChannel = None,
    std: PerChannel = None,
    interpolation: Interpolation = None,
    as_json: Json = False,
) -> None:
    """Export a classifier to one ONNX file, for --model onnx:FILE of the other commands.

    It gives logits and the head's input for images of one size.

    It holds head, class names and preprocessing.

    It is compared with the network before it is kept.

    Guards fitted on either work with both.

    Exit code 0: done; 1: not done, with the reason.
    """
    with reported(as_json):
        from neroli.errors import InvalidInput
        from neroli.models import load_classifier
        from neroli.models.onnx_export import export_onnx

        if out.suffix.lower() != ".onnx":
            raise InvalidInput(f"--out takes a file name that ends in .onnx, got {str(out)!r}.")
        classifier = load_classifier(model, weights, head=head)
        classifier.preprocessing = preprocessing_with(
            classifier.preprocessing, resize, crop, mean, std, interpolation
        )
        some = None if images is None else _first_images(images, classifier)
        exported = export_onnx(classifier, out, some)
        facts: dict[str, Any] = {
            "file": str(exported.path),
            "bytes": exported.bytes,
            "head": exported.head,
            "input_shape": list(exported.input_shape),
            "preprocessing": str(classifier.preprocessing),
            "class_names": classifier.class_names,
            "compared_on": exported.images,
            "noise": some is None,
            "features_difference": exported.features_difference,
            "logits_difference": exported.logits_difference,
        }
        emit(as_json, facts, lambda: _text(facts))


def _first_images(path: Path, classifier: Classifier) -> Tensor:
    """The first readable images of a source, as the network takes them."""
    from neroli.data.opening import open_images
    from neroli.errors import NotEnoughImages

    failed = 0
    for batch in open_images(path).batches(classifier.preprocessing, 8):
        if len(batch.images):
            return batch.images
        failed += len(batch.failures)
    raise NotEnoughImages(f"None of the {failed} images in {str(path)!r} could be read.")


def _text(facts: dict[str, Any]) -> str:
    what = "images of noise" if facts["noise"] else "images"
    return (
        f"Wrote {facts['file']} ({facts['bytes'] / 1e6:.1f} MB) for images of shape "
        f"{facts['input_shape']}, head {facts['head']!r}, {facts['preprocessing']}.\n"
        f"On {facts['compared_on']} {what} it differs from the network by at most "
        f"{facts['features_difference']:.1e} in features and {facts['logits_difference']:.1e} in "
        f"logits.\nNext: neroli fit --model onnx:{facts['file']} --train TRAINING_IMAGES "
        "--calibration IMAGES_NOT_TRAINED_ON --out guard"
    )
