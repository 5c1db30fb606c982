"""Fit and score on Ray: blocks are worked on by actors and joined in order by the process here."""

from __future__ import annotations

import contextlib
from pathlib import Path

from neroli.artefact import Manifest
from neroli.classifier import Classifier
from neroli.data.pictures import Pictures
from neroli.errors import NotEnoughImages
from neroli.extraction import IMAGE_BATCH, find_head, store_key, stored
from neroli.files import text_digest
from neroli.guard import Guard
from neroli.models import anchored
from neroli.scale.blocks import BlockFolder, Blocks, SharedImages
from neroli.scale.ray_cluster import RayCluster
from neroli.scale.ray_run import run
from neroli.scale.ray_work import Extraction, Scoring
from neroli.scores import Summary, check_table_path, joined_tables
from neroli.store import ActivationStore, Origin
from neroli.store_joining import joined
from neroli.taps import NOTHING, Requirements


def extract(
    classifier: Classifier,
    source: Pictures,
    images: SharedImages,
    path: Path,
    cluster: RayCluster,
    *,
    model: str,
    weights: Path | None,
    device: str,
    batch_size: int = IMAGE_BATCH,
    requires: Requirements = NOTHING,
    progress: bool | None = None,
) -> ActivationStore:
    """The activations of images as the store that ``neroli.extract`` makes of them, by actors.

    Args:
        classifier: made of ``model`` and ``weights``; its head is found here, on any device.
        source: the images, with the labels that are needed.
        images: the same, as the actors find them.
        path: the store's folder; blocks lie in ``PATH.blocks`` until they are joined.
        cluster: where the actors run.
        model, weights: by which the actors load the network.
        device: where the network of an actor runs.
        batch_size, requires, progress: as in ``neroli.extract``.

    Raises:
        NotEnoughImages: if no image was readable.
        HeadNotFound, InvalidInput: as ``Classifier``.
        EngineError: as ``neroli.scale.ray_run.run``.
        ArtefactError: if the store cannot be written.
    """
    find_head(classifier, source, requires)
    if (store := stored(classifier, source, path, requires.kept)) is not None:
        return store
    origin = Origin(classifier.weights_hash(), classifier.head_name, source.content)
    key = store_key(origin, classifier, source, requires.kept)
    blocks = Blocks(len(source), cluster.options.block_size)
    folder = path.resolve().with_name(f"{path.name}.blocks")
    work = Extraction(
        model=anchored(model),
        weights=None if weights is None else weights.resolve(),
        device=device,
        head=classifier.head_name,
        prepool=classifier.prepool_name,
        input_shape=classifier.input_shape,
        preprocessing=classifier.preprocessing,
        images=images,
        blocks=blocks,
        folder=folder,
        requires=requires,
        batch_size=batch_size,
    )
    with BlockFolder(folder, text_digest([key, str(blocks.size)])) as kept:
        run(work, cluster, progress=progress)
        store = joined([work.store(number) for number in range(len(blocks))], path, key)
        kept.remove()
    return store


def score(
    guard: Guard,
    manifest: Manifest,
    source: Pictures,
    images: SharedImages,
    out: Path,
    cluster: RayCluster,
    *,
    folder: Path,
    model: str | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    batch_size: int = IMAGE_BATCH,
    progress: bool | None = None,
) -> Summary:
    """Write the table of scores that ``neroli score`` writes, by actors.

    Args:
        guard: the guard in ``folder``, loaded here.
        manifest: what it says of itself.
        source, images, cluster, device, batch_size, progress: as in ``extract``.
        out: the table; blocks lie in ``OUT.blocks`` until they are joined.
        folder: of the guard.
        model, weights: instead of what the guard says.

    Raises:
        InvalidInput: if ``out`` is no name of a table.
        EngineError: as ``neroli.scale.ray_run.run``.
        ArtefactError: if the table cannot be written.
    """
    check_table_path(out)
    if guard.classifier.input_shape is None:
        with contextlib.suppress(NotEnoughImages):  # then every row says why
            find_head(guard.classifier, source)
    blocks = Blocks(len(source), cluster.options.block_size)
    work = Scoring(
        guard=folder.resolve(),
        model=None if model is None else anchored(model),
        weights=None if weights is None else weights.resolve(),
        device=device,
        input_shape=guard.classifier.input_shape,
        images=images,
        blocks=blocks,
        folder=out.resolve().with_name(f"{out.name}.blocks"),
        batch_size=batch_size,
    )
    key = text_digest([manifest.model_dump_json(), source.fingerprint, str(blocks.size)])
    with BlockFolder(work.folder, key) as kept:
        run(work, cluster, progress=progress)
        tables = [work.table(number) for number in range(len(blocks))]
        summary = joined_tables(tables, out, manifest)
        kept.remove()
    return summary
