"""Fit and score on Ray: blocks are worked on by actors and joined in order by the process here."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from neroli.artefact import read_manifest
from neroli.classifier import Classifier
from neroli.data.sources import IMAGE_BATCH, ImageSource
from neroli.data.tables import Columns
from neroli.errors import NotEnoughImages
from neroli.extraction import find_head, origin_of, store_key
from neroli.files import text_digest
from neroli.guard import Guard
from neroli.models import anchored
from neroli.scale.blocks import BlockFolder, Blocks, SharedImages, divisible
from neroli.scale.ray_cluster import RayCluster
from neroli.scale.ray_run import run
from neroli.scale.ray_work import Extraction, Scoring
from neroli.scores import Summary, check_table_path, joined_tables
from neroli.store import ActivationStore, finished
from neroli.store_joining import joined
from neroli.store_precision import StoreDtype
from neroli.taps import NOTHING, Requirements


@dataclass(frozen=True, eq=False)
class RayExtractor:
    """Has actors extract what a guard is then fitted and calibrated on.

    Attributes:
        classifier: made of ``model`` and ``weights``; its head is found here, on any device.
        cluster: where the actors run.
        model, weights: by which the actors load the network.
        device: where the network of an actor runs.
        columns: of tables of images.
        batch_size: images at a time.
        dtype: "float16" halves the space on disk; None keeps what the network computed.
        progress: show a progress bar; None does so on a terminal.
    """

    classifier: Classifier
    cluster: RayCluster
    model: str
    weights: Path | None
    device: str
    columns: Columns | None = None
    batch_size: int = IMAGE_BATCH
    dtype: StoreDtype | None = None
    progress: bool | None = None

    def extract(
        self,
        path: Path,
        opened: ImageSource,
        source: ImageSource,
        store: Path,
        requires: Requirements = NOTHING,
    ) -> ActivationStore:
        """The store of activations that ``neroli.extract`` makes of a source.

        Args:
            path: of the images.
            opened: what ``open_images`` gave there.
            source: the same with the labels that are needed, if any are.
            store: the store's folder; blocks lie in ``STORE.blocks`` until they are joined.
            requires: what to keep beside features and logits.

        Raises:
            NotEnoughImages: if no image was readable.
            HeadNotFound, InvalidInput: as ``Classifier``, or if the images are one stream.
            EngineError: as ``neroli.scale.ray_run.run``.
            ArtefactError: if the store cannot be written.
        """
        opened, source = divisible(opened, path), divisible(source, path)
        classifier = self.classifier
        find_head(classifier, source, requires)
        key = store_key(
            origin_of(classifier, source), classifier, source, requires.kept, self.dtype
        )
        if (found := finished(store, key)) is not None:
            return found
        blocks = Blocks(len(source), self.cluster.options.block_size)
        work = Extraction(
            model=anchored(self.model),
            weights=None if self.weights is None else self.weights.resolve(),
            device=self.device,
            head=classifier.head_name,
            prepool=classifier.prepool_name,
            input_shape=classifier.input_shape,
            preprocessing=classifier.preprocessing,
            execution=classifier.execution,
            images=SharedImages.of(opened, source, path, self.columns),
            blocks=blocks,
            folder=store.resolve().with_name(f"{store.name}.blocks"),
            requires=requires,
            batch_size=self.batch_size,
            class_names=None if classifier.class_names is None else tuple(classifier.class_names),
            dtype=self.dtype,
        )
        with BlockFolder(work.folder, text_digest([key, str(blocks.size)])) as folder:
            run(work, self.cluster, progress=self.progress)
            parts = [work.store(number) for number in range(len(blocks))]
            whole = joined(parts, store, key)
            folder.remove()
        return whole


def score(
    guard: Guard,
    folder: Path,
    images: Path,
    source: ImageSource,
    out: Path,
    cluster: RayCluster,
    *,
    columns: Columns | None = None,
    model: str | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    batch_size: int = IMAGE_BATCH,
    progress: bool | None = None,
) -> Summary:
    """Write the table of scores that ``neroli score`` writes, by actors.

    Args:
        guard: loaded here, on any device.
        folder: in which it is saved.
        images: path of the images.
        source: what ``open_images`` gave there.
        out: the table; blocks lie in ``OUT.blocks`` until they are joined.
        cluster: where the actors run.
        columns: of a table of images.
        model, weights: instead of what the guard says.
        device, batch_size, progress: as of ``RayExtractor``.

    Raises:
        InvalidInput: if ``out`` is no name of a table, or the images are one stream.
        EngineError: as ``neroli.scale.ray_run.run``.
        ArtefactError: if the table cannot be written.
    """
    check_table_path(out)
    pictures = divisible(source, images).unlabelled()
    if guard.classifier.input_shape is None:
        with contextlib.suppress(NotEnoughImages):  # then every row says why
            find_head(guard.classifier, pictures)
    manifest = read_manifest(folder)
    blocks = Blocks(len(pictures), cluster.options.block_size)
    work = Scoring(
        guard=folder.resolve(),
        model=None if model is None else anchored(model),
        weights=None if weights is None else weights.resolve(),
        device=device,
        execution=guard.classifier.execution,
        input_shape=guard.classifier.input_shape,
        images=SharedImages.of(pictures, pictures, images, columns),
        blocks=blocks,
        folder=out.resolve().with_name(f"{out.name}.blocks"),
        batch_size=batch_size,
    )
    facts = manifest.model_dump_json(), pictures.fingerprint, str(work.execution), str(blocks.size)
    with BlockFolder(work.folder, text_digest(facts)) as kept:
        run(work, cluster, progress=progress)
        tables = [work.table(number) for number in range(len(blocks))]
        summary = joined_tables(tables, out, manifest)
        kept.remove()
    return summary
