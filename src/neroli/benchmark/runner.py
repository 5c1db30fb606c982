"""Run a benchmark: extract, fit, score, compare, explain, and write what was found."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from neroli import __version__
from neroli.agreement import label_agreement
from neroli.assumptions import GatherFacts
from neroli.benchmark.charts import Curves
from neroli.benchmark.duplicates import duplicates
from neroli.benchmark.entries import Entry, entries_of, needed
from neroli.benchmark.gallery import Gallery, explaining, galleries_of
from neroli.benchmark.images import BenchmarkImages
from neroli.benchmark.measuring import learning_half, measure
from neroli.benchmark.published import published
from neroli.benchmark.ranking import critical_difference
from neroli.benchmark.report import write_bench_report
from neroli.benchmark.results import Duplicates, Failed, ModelFacts, Results, SetFacts, Tuning
from neroli.benchmark.scores import Scores
from neroli.benchmark.searching import searched
from neroli.benchmark.stores import OOD, Stores, extract_all, labelled, runnable
from neroli.benchmark.suite import Suite
from neroli.benchmark.summary import rows_of
from neroli.benchmark.tables import write_tables
from neroli.benchmark.thresholds import ON_CALIBRATION, ON_HALVES, Flagged, flagged
from neroli.calibration import Promise
from neroli.classifier import Classifier
from neroli.data.named.sets import Nearness
from neroli.data.pictures import Pictures
from neroli.errors import ArtefactError, InvalidInput, NeroliError
from neroli.files import is_free, locked
from neroli.fitting import gather

Say = Callable[[str], object]
REPORT = "report.html"


@dataclass(frozen=True)
class Options:
    """How a benchmark is run.

    Args:
        detectors: instead of the suite's, a group as in a suite file, or names.
        resamples: of the bootstrap.
        promise: of the thresholds.
        tune: whether hyper-parameters are searched too, without OOD data.
        limit: of how many images of each set, evenly spread; None takes all.
        gallery: how many of the most and of the least OOD images of each set are explained.
        batch_size: images through the network at a time.
        class_map: of labels to classes, if they do not match by themselves.
        command: how it was called.
        progress: show a progress bar on standard error; None does so on a terminal.
    """

    detectors: str | tuple[str, ...] | None = None
    resamples: int = 1000
    promise: Promise = field(default_factory=lambda: Promise(guarantee="average"))
    tune: bool = False
    limit: int | None = None
    gallery: int = 10
    batch_size: int = 64
    class_map: Path | None = None
    command: str = ""
    progress: bool | None = None


def run(
    suite: Suite,
    images: BenchmarkImages,
    classifier: Classifier,
    out: Path,
    options: Options = Options(),
    say: Say = lambda text: None,
) -> Results:
    """Run a benchmark; an interrupted one goes on, and what was done before is not done again.

    Args:
        suite: what is compared.
        images: its sets.
        classifier: the model.
        out: folder for activations, scores, ``results.*`` and ``report.html``.
        options: how.
        say: told what is being done.

    Raises:
        ArtefactError: if the folder holds something else or cannot be written to.
        NeroliError: if the model or the images cannot be used.
    """
    check_folder(out)
    with locked(out, "benchmark"):
        entries, failures, stores = _prepared(suite, images, classifier, out, options, say)
        nearness = {each.name: each.nearness for each in images.ood}
        tuning: list[Tuning] = []
        if options.tune:
            say("Searching hyper-parameters without OOD data ...")
            entries, tuning = searched(
                entries,
                stores,
                classifier,
                out,
                seed=suite.seed,
                batch_size=options.batch_size,
            )
        scores, failed = measure(entries, stores, out / "scores", say)
        entries = [entry for entry in entries if entry.label in scores]
        failures += failed
        if not entries:
            raise InvalidInput(
                f"No detector could be used: {failures[0].label} {failures[0].reason}"
            )
        say("Comparing ...")
        shares = {
            entry.label: flagged(
                scores[entry.label],
                stores,
                options.promise,
                learning_half(entry.detector, stores),
            )
            for entry in entries
        }
        rows = rows_of(
            entries,
            scores,
            shares,
            stores,
            nearness,
            resamples=options.resamples,
            seed=suite.seed,
        )
        remarks = [*images.remarks, *_remarks(entries, stores, classifier)]
        galleries: list[Gallery] = []
        if options.gallery:
            entry = explaining(rows, entries)
            say(f"Explaining images by {entry.label} ...")
            try:
                galleries = galleries_of(
                    entry, scores[entry.label], stores, classifier, options.promise, options.gallery
                )
            except NeroliError as error:
                remarks.append(f"No images are explained: {error}")
        points = np.array([[row.sets[n].auroc.value for n in nearness] for row in rows])
        results = Results(
            suite=suite.name,
            about=suite.about,
            command=options.command,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=_versions(),
            seed=suite.seed,
            resamples=options.resamples,
            false_alarm_rate=options.promise.false_alarm_rate,
            promise=str(options.promise),
            calibrated_on=ON_CALIBRATION if "calibration" in stores.of else ON_HALVES,
            model=_model_facts(suite, classifier),
            sets=_sets(stores, nearness),
            rows=rows,
            failures=failures,
            duplicates=_duplicates(stores),
            critical_difference=critical_difference(points),
            tuning=tuning,
            published=[] if suite.published is None else published(**suite.published.model_dump()),
            remarks=remarks,
            forward=stores.forward,
        )
        write_tables(out, results)
        write_bench_report(out / REPORT, results, _curves(scores, shares, stores), galleries)
    return results


def check_folder(out: Path) -> None:
    """Raise ArtefactError if a benchmark may not be written there."""
    if not is_free(out, "results.json", "suite"):
        raise ArtefactError(f"{str(out)!r} holds other files: choose an empty or new folder.")


def _prepared(
    suite: Suite,
    images: BenchmarkImages,
    classifier: Classifier,
    out: Path,
    options: Options,
    say: Say,
) -> tuple[list[Entry], list[Failed], Stores]:
    """The detectors that can be run, those that cannot, and the activations of all sets."""
    chosen = suite if options.detectors is None else suite.with_detectors(options.detectors)
    entries, failures = entries_of(chosen.rows(), suite.model.layers)
    sets = sets_of(images, classifier, options)
    entries, lacking = runnable(entries, classifier, sets["train"])
    if not entries:
        reason = next((each.reason for each in (*lacking, *failures)), "none was chosen")
        raise InvalidInput(f"None of the detectors can be used on this model: {reason}")
    stores = extract_all(
        classifier,
        sets,
        needed(entries),
        out / "activations",
        batch_size=options.batch_size,
        progress=options.progress,
        say=say,
    )
    return entries, [*failures, *lacking], stores


def sets_of(
    images: BenchmarkImages, classifier: Classifier, options: Options
) -> dict[str, Pictures]:
    """All sets by name: ID ones with labels, OOD ones without."""
    inside = {"train": images.train, "calibration": images.calibration, "test": images.test}
    sets = {
        name: labelled(classifier, pictures, options.class_map)
        for name, pictures in inside.items()
        if pictures is not None
    }
    sets |= {OOD + each.name: each.images.unlabelled() for each in images.ood}
    return {name: evenly(pictures, options.limit) for name, pictures in sets.items()}


def evenly(pictures: Pictures, limit: int | None) -> Pictures:
    """At most so many pictures, evenly spread."""
    if limit is None or len(pictures) <= limit:
        return pictures
    return pictures.subset([position * len(pictures) // limit for position in range(limit)])


def _remarks(entries: Sequence[Entry], stores: Stores, classifier: Classifier) -> list[str]:
    """What users should know of the classifier and of what detectors assume."""
    remarks = []
    agreement = label_agreement(stores.of["train"], classifier.class_names)
    if agreement is not None and agreement.is_doubtful:
        remarks.append(str(agreement))
    facts = gather([GatherFacts()], stores.of["train"])[0]
    doubted: dict[str, list[str]] = {}
    for entry in entries:
        detector = entry.detector
        for doubt in facts.doubts("", detector.assumed, detector.shrunk):
            doubted.setdefault(doubt.strip(), []).append(entry.label)
    return remarks + [f"{', '.join(labels)}: {doubt}" for doubt, labels in doubted.items()]


def _sets(stores: Stores, nearness: dict[str, Nearness | None]) -> list[SetFacts]:
    facts = []
    for name, store in stores.of.items():
        agreement = None if name.startswith(OOD) else label_agreement(store)
        own = name.removeprefix(OOD)
        facts.append(
            SetFacts(
                name=own,
                role="ood" if name.startswith(OOD) else name,  # type: ignore[arg-type]
                nearness=nearness.get(own) if name.startswith(OOD) else None,
                images=len(store),
                unreadable=len(store.failures),
                accuracy=None if agreement is None else agreement.accuracy,
            )
        )
    return facts


def _duplicates(stores: Stores) -> list[Duplicates]:
    """Between ID sets, and between each of them and the OOD sets."""
    inside = [name for name in stores.of if not name.startswith(OOD)]
    outside = [name for name in stores.of if name.startswith(OOD)]
    pairs = [(a, b) for at, a in enumerate(inside) for b in (*inside[at + 1 :], *outside)]
    found = duplicates({name: store.digests() for name, store in stores.of.items()}, pairs)
    return [each.model_copy(update={"second": each.second.removeprefix(OOD)}) for each in found]


def _curves(
    scores: Mapping[str, Scores], flagged: Mapping[str, Flagged | None], stores: Stores
) -> dict[str, dict[str, Curves]]:
    curves = {}
    for label, shares in flagged.items():
        own = scores[label]
        threshold = None if shares is None else shares.threshold
        inside = own.sets["test"].numpy()
        curves[label] = {
            name: Curves.of(inside, own.sets[OOD + name].numpy(), threshold) for name in stores.ood
        }
    return curves


def _model_facts(suite: Suite, classifier: Classifier) -> ModelFacts:
    return ModelFacts(
        spec=suite.model.spec or f"{_arch(suite)}, trained by neroli",
        head=classifier.head_name,
        weights_hash=classifier.weights_hash(),
        preprocessing=str(classifier.preprocessing),
        features=classifier.head.num_features,
        classes=classifier.head.num_classes,
    )


def _arch(suite: Suite) -> str:
    return "" if suite.model.training is None else suite.model.training.arch


def _versions() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "neroli": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{device}, {torch.get_num_threads()} threads",
    }
