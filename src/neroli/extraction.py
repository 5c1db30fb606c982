"""Extraction: run a classifier over images once and keep what it computed."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.classifier import Classifier
from neroli.data.classes import ClassMatch, match_classes
from neroli.data.opening import as_source
from neroli.data.pictures import Pictures
from neroli.data.prefetching import copier, prefetched
from neroli.data.sources import IMAGE_BATCH, Failure, ImageBatch, ImageLoader, ImageSource
from neroli.errors import NotEnoughImages
from neroli.execution import AS_IT_IS
from neroli.files import text_digest
from neroli.progress import progress_bar
from neroli.stand_in import StandIn
from neroli.store import ActivationStore, Origin, StoreWriter, finished
from neroli.store_matching import check_store
from neroli.store_precision import StoreDtype
from neroli.taps import NOTHING, Kept, Requirements


@dataclass(frozen=True, eq=False, repr=False)
class Extracted:
    """A batch of images and, if any of them was readable, its activations."""

    images: ImageBatch
    activations: Activations | None


def stream(
    classifier: Classifier,
    source: ImageSource,
    *,
    batch_size: int = IMAGE_BATCH,
    start: int = 0,
    requires: Requirements = NOTHING,
    progress: bool | None = None,
) -> Iterator[Extracted]:
    """The activations of a source's images, batch by batch, nothing kept.

    Args:
        classifier: what to run.
        source: the images.
        batch_size: images at a time; a loader keeps its own.
        start: position in the source to begin at.
        requires: what to keep beside features and logits.
        progress: show a progress bar on standard error; None does so on a terminal.

    Raises:
        HeadNotFound, InvalidInput: as ``Classifier``.
    """
    batches = source.batches(classifier.preprocessing, batch_size, start, classifier.input_shape)
    with (
        progress_bar(source.size, start, progress) as advance,
        closing(_placed(batches, classifier.device, source)) as placed,
    ):
        for batch, images in placed:
            activations = None
            if len(images):
                activations = classifier(images, batch.labels, batch.ids, requires)
            yield Extracted(batch, activations)
            advance(batch.end)


def _placed(
    batches: Iterator[ImageBatch], device: torch.device, source: ImageSource
) -> Generator[tuple[ImageBatch, Tensor], None, None]:
    """Batches, and their images where the network is, made ready while it computes."""
    copied = copier(device)
    placed = ((batch, copied(batch.images)) for batch in batches)
    # a loader is the user's own code, and may mind the thread it is called in
    yield from placed if isinstance(source, ImageLoader) else prefetched(placed)


def extract(
    classifier: Classifier,
    images: Any,
    path: Path | str,
    *,
    labelled: bool = False,
    batch_size: int = IMAGE_BATCH,
    requires: Requirements = NOTHING,
    dtype: StoreDtype | None = None,
    progress: bool | None = None,
) -> ActivationStore:
    """The activations of images as a store on disk; an interrupted extraction goes on.

    A complete store of the same images and classifier is used as it is; one of others is replaced.
    Data loaders do not say beforehand what they hold, so theirs is always extracted anew.

    Args:
        classifier: what to run.
        images: as ``as_source`` takes them.
        path: the store's folder.
        labelled: take the classes that a folder or table states, as training images need them.
        batch_size: images at a time; a loader keeps its own.
        requires: what to keep beside features and logits, such as a detector's ``requires``.
        dtype: "float16" halves the space on disk; None keeps what the network computed.
        progress: show a progress bar on standard error; None does so on a terminal.

    Raises:
        NotEnoughImages: if no image was readable.
        HeadNotFound, InvalidInput: as ``Classifier``; also if a value does not fit ``dtype``.
        ClassMapError: if stated classes are not those of the classifier.
        ArtefactError: if the store cannot be written.
    """
    take = partial(labelled_source, classifier) if labelled else as_source
    source = take(images, batch_size)
    find_head(classifier, source, requires)
    return extract_part(
        classifier,
        source,
        path,
        batch_size=batch_size,
        requires=requires,
        dtype=dtype,
        progress=progress,
    )


def extract_part(
    classifier: Classifier,
    source: ImageSource,
    path: Path | str,
    *,
    batch_size: int = IMAGE_BATCH,
    requires: Requirements = NOTHING,
    dtype: StoreDtype | None = None,
    progress: bool | None = None,
) -> ActivationStore:
    """The activations of part of a source as a store on disk; in all else as ``extract``.

    Args:
        classifier: whose head and input shape were found on the whole source, since no image of
            the part may be readable.
        source: the part.
        path, batch_size, requires, dtype, progress: as in ``extract``.

    Raises:
        InvalidInput: as ``Classifier``.
        ArtefactError: if the store cannot be written.
    """
    origin = origin_of(classifier, source)
    key = store_key(origin, classifier, source, requires.kept, dtype)
    if (store := finished(path, key)) is not None:
        return store
    with StoreWriter(path, classifier.head, key, origin, dtype=dtype) as writer:
        for batch in stream(
            classifier,
            source,
            batch_size=batch_size,
            start=writer.position,
            requires=requires,
            progress=progress,
        ):
            writer.append(batch.activations, batch.images)
    return ActivationStore(path)


def stored(
    classifier: Classifier, source: ImageSource, path: Path | str, kept: Kept
) -> ActivationStore | None:
    """The complete store of these images and this classifier, if it is there.

    Args:
        classifier: whose head, and map before pooling if that is kept, were found.
        source: the images.
        path: the store's folder.
        kept: what it keeps beside features and logits.
    """
    return finished(path, store_key(origin_of(classifier, source), classifier, source, kept))


@contextmanager
def activations_of(
    classifier: Classifier,
    images: Any,
    path: Path | str | None = None,
    *,
    batch_size: int = IMAGE_BATCH,
    requires: Requirements = NOTHING,
    dtype: StoreDtype | None = None,
    progress: bool | None = None,
) -> Iterator[ActivationStore]:
    """The activations of images as a store, in a temporary folder unless a path is given.

    Args:
        classifier: what to run.
        images: as ``as_source`` takes them, or a store of this classifier, used as it is.
        path, batch_size, requires, dtype, progress: as in ``extract``.

    Raises:
        InvalidInput: if the store is of another classifier, or lacks something that is required;
            otherwise as ``extract``.
    """
    if isinstance(images, ActivationStore):
        check_store(images, classifier, requires)
        yield images
        return
    with tempfile.TemporaryDirectory(prefix="neroli-") as temporary:
        yield extract(
            classifier,
            as_source(images, batch_size),
            path or temporary,
            batch_size=batch_size,
            requires=requires,
            dtype=dtype,
            progress=progress,
        )


def with_classes(
    classifier: Classifier, images: Pictures, class_map: Path | str | None = None
) -> tuple[Pictures, ClassMatch | None]:
    """Images with the classifier's classes for the labels that their data state, if they do.

    Raises:
        ClassMapError: as ``match_classes``.
        InvalidInput, NotEnoughImages: as ``Pictures.labelled``.
    """
    if images.stated_labels is None:
        return images, None
    find_head(classifier, images)
    match = match_classes(
        images.label_names(),
        classifier.head.num_classes,
        classifier.class_names,
        class_map,
        images.label_noun,
    )
    return images.labelled(match.classes), match


def labelled_source(
    classifier: Classifier, images: Any, batch_size: int = IMAGE_BATCH
) -> ImageSource:
    """Images in any form as a source, with the classifier's classes for labels that are stated.

    Raises:
        InvalidInput: as ``as_source``.
        ClassMapError, NotEnoughImages: as ``with_classes``.
    """
    source = as_source(images, batch_size)
    return with_classes(classifier, source)[0] if isinstance(source, Pictures) else source


def find_head(
    classifier: Classifier, source: ImageSource, requires: Requirements = NOTHING
) -> None:
    """Find the classifier's head, and the map before pooling if required, on the first images.

    Raises:
        NotEnoughImages: if none is readable.
        HeadNotFound: if there is no linear head, or no such map.
        InvalidInput: if the model lacks a layer that is required.
    """
    classifier.check_requirements(requires)
    failures: list[Failure] = []
    for batch in source.batches(classifier.preprocessing, 8):
        if len(batch.images):
            classifier.find_head(batch.images)
            if requires.prepool:
                classifier.find_prepool(batch.images)
            return
        failures += batch.failures
    why = f": {failures[0].name!r} {failures[0].reason}" if failures else ""
    raise NotEnoughImages(f"None of the {len(failures)} images could be read{why}.")


def store_key(
    origin: Origin,
    classifier: Classifier,
    source: ImageSource,
    kept: Kept,
    dtype: StoreDtype | None = None,
) -> str:
    """What identifies a store: weights, head, preprocessing, execution, taps, dtype and images.

    Of a network that another program computes also this program.
    """
    preprocessing = classifier.preprocessing
    parts: dict[str, Any] = {
        "weights_hash": origin.weights_hash,
        "head_name": origin.head_name,
        "content": origin.content,
        "preprocessing": None if preprocessing is None else asdict(preprocessing),
        "taps": list(kept.taps),
        "probes": list(kept.probes),
        "prepool": classifier.prepool_name if kept.prepool else None,
        "input_shape": classifier.input_shape,  # pictures of another are unreadable
        "images": source.fingerprint or uuid.uuid4().hex,  # unknown images are never the same
    }
    if isinstance(classifier.model, StandIn):
        parts["runtime"] = classifier.model.runtime
    if dtype is not None:
        parts["dtype"] = dtype
    if classifier.execution != AS_IT_IS:
        parts["execution"] = asdict(classifier.execution)
    return text_digest([json.dumps(parts, sort_keys=True)])


def origin_of(classifier: Classifier, source: ImageSource) -> Origin:
    """What a store of these images says of them, once the head is found."""
    names = classifier.class_names
    return Origin(
        classifier.weights_hash(),
        classifier.head_name,
        source.content,
        None if source.content == "tensor" else classifier.preprocessing,
        classifier.input_shape,
        None if names is None else tuple(names),
        classifier.execution,
    )
