"""FitRun: a fit as ``neroli fit`` and ``neroli merge`` run it, as a whole or in shards."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from neroli.artefact import free_folder
from neroli.calibration import Promise
from neroli.cli.common import columns_named, images_or_store
from neroli.cli.hyperparameters import hyperparameters
from neroli.cli.inputs import check_agreement, classifier_of, matched, needs_images
from neroli.compiling import check_compiler
from neroli.data.pictures import Pictures
from neroli.data.sources import ImageSource
from neroli.detectors import Detector, create
from neroli.errors import InvalidInput, NeroliWarning, NotFitted
from neroli.extraction import extract, find_head, with_classes
from neroli.files import LOCK, remove_own
from neroli.fitting import learns_held_out
from neroli.guard import Guard
from neroli.head import LinearHead
from neroli.models import model_source
from neroli.scale.blocks import divisible
from neroli.scale.distributed import DistributedActivations, Workers
from neroli.scale.gathering import Gather, GatheringStore
from neroli.scale.job import FILE, MERGED, FitOptions, Job, clear_merged
from neroli.scale.partition import PARTS, Partition, Shard, check_none_missing
from neroli.scale.rounds import PASS
from neroli.store import ActivationStore
from neroli.store_precision import StoreDtype, check_dtype
from neroli.taps import Requirements

Extractor = Callable[[Path, ImageSource, ImageSource, Path, Requirements], ActivationStore]
"""Makes the store of images: given their path, as opened, with labels, the store, what to keep."""


class FitRun:
    """The images, the model and the detector of a fit, from its options to a saved guard.

    Args:
        options: what to fit.
        batch_size: images through the network at a time.
        device: where it runs.
        folder: where activations are kept while the fit lasts, or for good, if it has moved.

    Raises:
        NeroliError: if an option, the images or the model cannot be used.
    """

    def __init__(
        self, options: FitOptions, *, batch_size: int, device: str, folder: Path | None = None
    ) -> None:
        self.options, self.batch_size = options, batch_size
        check_dtype(options.store_dtype)
        self.dtype: StoreDtype | None = "float16" if options.store_dtype else None
        self.promise = Promise(
            options.false_alarm_rate,
            options.guarantee,  # type: ignore[arg-type]  # which it checks
            options.confidence,
            options.per_class,
        )
        self.out = options.out.resolve()
        self.folder = folder or options.store or self.out.with_name(f"{self.out.name}.partial")
        self.replaces = (free_folder(self.out) / "manifest.json").exists()
        self.columns = columns_named(
            options.path_column, options.label_column, options.group_column
        )
        self.extractor: Extractor | None = None
        """What extracts whole sources instead of this process, if anything does."""
        self._in_shards = False
        self._opened, self.held_out = (
            images_or_store(path, self.columns, options.every)
            for path in (options.train, options.calibration)
        )
        for option in ("store", "store_dtype"):
            if getattr(options, option) is not None:
                self.need_network(f"--{option.replace('_', '-')}")
        held_out = self.held_out
        count = len(held_out) if isinstance(held_out, ActivationStore) else held_out.size
        if count is not None:
            self.promise.rank(count)  # too few images are better said before the work
        classifier = classifier_of(options, device)
        # behind the model, which may register it
        settings = hyperparameters(options.detector, options.setting)
        detector = create(options.detector, **settings)
        if options.keep_examples and isinstance(self._opened, ActivationStore):
            raise needs_images("--keep-examples", options.train)
        self.training, self.match = matched(options, classifier, self._opened)
        self.guard = Guard(classifier, detector)
        self.guard.model_source = model_source(options.model, options.weights, self.out)

    def need_network(self, option: str) -> None:
        """Raise InvalidInput, naming an option, if no network runs as all images are stores."""
        if all(isinstance(images, ActivationStore) for images in (self._opened, self.held_out)):
            raise InvalidInput(
                f"{option} is for activations yet to be extracted, and --train and --calibration "
                "are activation stores: leave it out."
            )

    def partitions(self, of: int) -> tuple[Partition, Partition]:
        """The training and the calibration images in so many parts.

        Raises:
            InvalidInput: if they cannot be cut.
        """
        classifier, detector = self.guard.classifier, self.guard.detector
        training = _divisible(self.training, self.options.train)
        held_out = _divisible(self.held_out, self.options.calibration)
        find_head(classifier, training, detector.requires_to_fit)
        find_head(classifier, held_out, detector.requires)
        if _labels_needed(detector, classifier.head):
            held_out = with_classes(classifier, held_out)[0]
        else:
            held_out = held_out.unlabelled()
        where, how = self.folder, self.dtype
        return (
            Partition(classifier, training, detector.requires_to_fit, where, "training", of, how),
            Partition(classifier, held_out, detector.requires, where, "calibration", of, how),
        )

    def check_unshared(self) -> None:
        """Raise InvalidInput if the folder is that of a fit in shards, which this one is not."""
        if (self.folder / FILE).exists():
            of = Job.read(self.folder).shards
            raise InvalidInput(
                f"{str(self.folder)!r} holds a fit in {of} shard{'s' * (of > 1)}: run `neroli "
                f"merge {self.folder}` when all are extracted, or delete the folder."
            )

    def begin(self, of: int) -> None:
        """Note in the folder that this is a fit in so many shards.

        Raises:
            InvalidInput, ArtefactError: as ``Job.begin``.
        """
        training = _divisible(self.training, self.options.train)
        job = Job(shards=of, training_images=len(training), options=self.options.absolute())
        job.begin(self.folder)
        self._in_shards = True

    def extract_shard(self, shard: Shard) -> dict[str, ActivationStore | None]:
        """The stores of one part of the training and of the calibration images, if it has any."""
        self._check_runs()
        self.begin(shard.of)
        parts = self.partitions(shard.of)
        return {part.kind: part.extract(shard, self.batch_size) for part in parts}

    def check_extracted(self, shard: Shard) -> None:
        """Raise ArtefactError unless the store of a part of the training images is there."""
        training = self.partitions(shard.of)[0]
        check_none_missing({training.kind: [] if training.has(shard) else [shard]})

    def join(self, of: int) -> None:
        """Make one store of the parts of the training and of the calibration images.

        Raises:
            ArtefactError: if some are missing, which are named.
        """
        parts = self.partitions(of)
        check_none_missing({part.kind: part.missing(self.folder / part.kind) for part in parts})
        for part in parts:
            part.joined(self.folder / part.kind)

    def learn(self, gather: Gather | None = None) -> None:
        """Fit the guard on the training images, extracted unless they are.

        Args:
            gather: what gathers statistics instead of this process.

        Raises:
            NeroliError: as ``Guard.fit``.
        """
        guard, kept = self.guard, self.options.keep_examples
        store, requires = self.folder / "training", guard.detector.requires_to_fit
        training, opened = self.training, self._opened
        if not isinstance(training, ActivationStore):
            if gather is None and self.extractor is None:
                self._check_runs()
            if self.extractor is not None and not isinstance(opened, ActivationStore):
                self.extractor(self.options.train, opened, training, store, requires)
            training = extract(
                guard.classifier,
                training,
                store,
                batch_size=self.batch_size,
                requires=requires,
                dtype=self.dtype,
            )
        if gather is not None:
            training = GatheringStore(training.path, gather)
        with warnings.catch_warnings():
            # what the guard itself says of the images is said by ``conclude``, once
            warnings.filterwarnings("ignore", category=NeroliWarning, module=re.escape(__name__))
            guard.fit(training, keep_examples=kept)

    def learn_together(self, workers: Workers) -> None:
        """Fit the guard on several processes, each of which extracts its part of the images.

        Raises:
            NeroliError: as ``learn``, and as ``Workers.agreed`` where another process failed.
        """
        shard, first = workers.shard, workers.rank == 0
        with workers.agreed():
            self._check_runs()
            if first:
                self.begin(shard.of)
        with workers.apart():
            part = self.extract_shard(shard)["training"]
        workers.wait()
        with workers.agreed():
            if first:
                self.join(shard.of)
        whole = ActivationStore(self.folder / "training")
        # a part without any readable image has the columns of the others
        own = part if part is not None and len(part) else next(whole.batches(1))[:0]
        self.learn(DistributedActivations(own, workers).gathered)

    def conclude(self, allow_low_agreement: bool = False) -> None:
        """Calibrate and save.

        Raises:
            ClassMapError: if predictions hardly agree with labels.
            NeroliError: as ``Guard.calibrate`` and ``Guard.save``.
        """
        options, guard = self.options, self.guard
        if options.keep_examples and not isinstance(self.training, ActivationStore):
            assert guard.reference is not None, "it is fitted"
            guard.reference.add_thumbnails(self.training, guard.classifier)
        check_agreement(
            guard.agreement,
            self.match,
            given_store=options.train if isinstance(self.training, ActivationStore) else None,
            kept_in=self.folder,
            allowed=allow_low_agreement or options.allow_low_agreement,
        )
        store = self.folder / "calibration"
        if self.extractor is not None and not isinstance(self.held_out, ActivationStore):
            images = guard.held_out_source(self.held_out)
            requires = guard.detector.requires
            self.extractor(options.calibration, self.held_out, images, store, requires)
        guard.calibrate(
            self.held_out,
            self.promise.false_alarm_rate,
            guarantee=self.promise.guarantee,
            confidence=self.promise.confidence,
            per_class=self.promise.per_class,
            store=store,
            store_dtype=self.dtype,
            batch_size=self.batch_size,
        )
        guard.save(self.out)
        self._clear()

    def _check_runs(self) -> None:
        """Raise InvalidInput, before anything is on disk, if the network cannot run here."""
        classifier = self.guard.classifier
        if classifier.execution.compile:
            check_compiler(classifier.device)

    def _clear(self) -> None:
        """Drop what was only of use on the way; killed in it, the same command goes on.

        While ``job.json`` is there the joined stores are too, of which the fit can be done again;
        when it is called ``merged.json`` a merge deletes the rest.
        """
        if not self._in_shards and (self.folder / FILE).exists():
            return  # a fit in shards was begun there meanwhile
        given = {self.options.train.resolve(), self.options.calibration.resolve()}
        for path in (self.folder / PARTS, *self.folder.glob(f"{PASS}*")):
            if path.resolve() not in given:  # where an interrupted run left it
                remove_own(path)
        if self.options.store is not None:
            (self.folder / FILE).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it may be held, which matters on Windows
                (self.folder / LOCK).unlink()
            return
        with contextlib.suppress(FileNotFoundError):
            (self.folder / FILE).replace(self.folder / MERGED)
        clear_merged(self.folder, keep=given)


def _divisible(images: ImageSource | ActivationStore, path: Path) -> Pictures:
    """Images that can be cut into parts; raises InvalidInput if these cannot."""
    if isinstance(images, ActivationStore):
        raise InvalidInput(
            f"{str(path)!r} is an activation store, for which no network runs: fit on it without "
            "--shard, with --engine local."
        )
    return divisible(images, path)


def _labels_needed(detector: Detector, head: LinearHead) -> bool:
    """Whether calibration needs labels, as far as a detector that is not fitted yet can tell.

    Where it cannot, merging extracts the calibration images once more.
    """
    try:
        return learns_held_out(detector, head)[1]
    except (AttributeError, NotFitted):
        return False
