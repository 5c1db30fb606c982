"""A report of explanations: one page of HTML that holds all it shows, without scripts or links out.

Names of images and classes are other people's text; the templates escape everything.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from markupsafe import Markup

from neroli.explain import wording
from neroli.explain.facts import (
    KEEP_EXAMPLES,
    NeuronRow,
    VerdictBadge,
    neuron_rows,
    panels,
    plain,
)
from neroli.explain.page import SMALL, checked_path, picture_address, templates
from neroli.files import atomic_path

if TYPE_CHECKING:
    from neroli.artefact import Manifest
    from neroli.data.sources import Failure
    from neroli.explain.explanation import Explanation


def write_report(
    path: Path | str,
    explanations: Iterable[Explanation],
    manifest: Manifest,
    *,
    failures: Iterable[Failure] = (),
    left_out: int = 0,
) -> None:
    """Write a page about explanations, atomically, one of them in memory at a time.

    Args:
        path: of the page, ending in .html; a file that is there is replaced.
        explanations: in the order of the page; taken one by one, so a generator will do.
        manifest: of the guard that gave them, ``guard.manifest()``.
        failures: images that could not be read; looked at after the last explanation.
        left_out: how many further images there were.

    Raises:
        InvalidInput: if the path ends in something else.
        ArtefactError: if it cannot be written.
    """
    path = checked_path(path)
    entries: list[_Entry] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as kept:
        for number, explanation in enumerate(explanations, 1):
            kept.write(article(explanation, number) + _BETWEEN)
            entries.append(
                _Entry(number, plain(explanation.name), plain(explanation.predicted_name),
                       VerdictBadge.of(explanation), explanation.score, explanation.p_value)
            )  # fmt: skip
        kept.seek(0)
        page = templates().get_template("report.html")
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for part in page.generate(
                entries=entries,
                articles=_articles(kept),
                failures=[(plain(failure.name), plain(failure.reason)) for failure in failures],
                left_out=left_out,
                guard=guard_facts(manifest),
            ):
                file.write(part)


def article(explanation: Explanation, number: int = 1) -> str:
    """One explanation as HTML, to stand in a page with others.

    Args:
        explanation: of one image.
        number: its place in the page, from 1.
    """
    return templates().get_template("explanation.html").render(article_facts(explanation, number))


def article_facts(explanation: Explanation, number: int = 1) -> dict[str, Any]:
    """What the templates of an explanation are given.

    Args:
        explanation: of one image.
        number: its place in the page, from 1.
    """
    picture, found = explanation.picture, explanation.neurons
    rows = neuron_rows(explanation)
    facts = found.to_dict(0, explanation.top)
    return {
        "number": number,
        "name": plain(explanation.name),
        "predicted": plain(explanation.predicted_name),
        "compared": plain(explanation.compared_name),
        "beside": plain(wording.beside(explanation)),
        "compared_images": explanation.compared_images,
        "badge": VerdictBadge.of(explanation),
        "e": explanation,
        "summary": plain(explanation.summary),
        "probability": wording.probability(explanation.probability),
        "pictures": [
            (panel.caption, picture_address(panel.picture), panel.ends)
            for panel in panels(explanation)
        ],
        "enlarged": max(picture.shape[:2]) < SMALL,
        "rows": list(zip(rows, _bars(rows), strict=True)),
        "bias": facts["bias"],
        "rest": facts["rest"],
        "rest_is": facts["rest_is"],
        "given": facts["given"],
        "known": found.shares is not None,
        "examples": _examples(explanation),
        "keep_examples": None if explanation.examples.thumbnails else KEEP_EXAMPLES,
    }


@dataclass(frozen=True)
class _Entry:
    """An image in the table of contents."""

    number: int
    name: str
    predicted: str
    badge: VerdictBadge
    score: float
    p_value: float


@dataclass(frozen=True)
class _Bars:
    """A neuron's evidence beside what is usual, as places 0 to 100 along an axis."""

    zero: float
    left: float
    width: float
    usual: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class _Example:
    """A training image: its id, its picture if kept, and its distance if it is a near one."""

    id: str
    picture: str | None
    distance: float | None


_BETWEEN = "\x00"
"""Between the articles that wait in a file; no name holds it, see ``plain``."""


def _articles(kept: IO[str]) -> Iterator[Markup]:
    """The articles that were rendered, one at a time."""
    begun = ""
    while block := kept.read(1 << 16):
        *whole, begun = (begun + block).split(_BETWEEN)
        yield from map(Markup, whole)


def _bars(rows: list[NeuronRow]) -> list[_Bars]:
    ends = [0.0]
    for row in rows:
        ends += [row.evidence, row.usual - row.spread, row.usual + row.spread]
    lowest, span = min(ends), (max(ends) - min(ends)) or 1.0

    def at(value: float) -> float:
        return round(2 + 96 * (value - lowest) / span, 2)

    return [
        _Bars(
            zero=at(0),
            left=min(at(0), at(row.evidence)),
            width=round(abs(at(row.evidence) - at(0)), 2),
            usual=at(row.usual),
            lowest=at(row.usual - row.spread),
            highest=at(row.usual + row.spread),
        )
        for row in rows
    ]


def _examples(explanation: Explanation) -> list[tuple[str, list[_Example]]]:
    examples = explanation.examples
    pictures = {
        name: picture_address(picture)
        for name, picture in examples.thumbnails.items()
        if any(name == near for near, _ in examples.nearest)
        or any(name in ids for ids in examples.kept_of_neurons.values())
    }

    def example(name: str, distance: float | None = None) -> _Example:
        return _Example(name, pictures.get(name), distance)

    groups = [
        ("Training images with the nearest evidence", [example(*near) for near in examples.nearest])
    ]
    kinds = [
        ("Neuron {}: training images in which it says most for their class", examples.of_neurons),
        ("Neuron {}: training images in which it is most active", examples.by_activation),
    ]
    if examples.thumbnails:  # pictures say more than hashes
        count = len(examples.thumbnails)
        title = f"Neuron {{}}: of {count} training images, those in which it says most"
        kinds[0] = (title, examples.kept_of_neurons)
    for kind, by_neuron in kinds:
        groups += [(kind.format(n), list(map(example, ids))) for n, ids in by_neuron.items()]
    # what can be seen comes first; the sort keeps the order otherwise
    return [
        (title, sorted(shown, key=lambda example: example.picture is None))
        for title, shown in groups
        if shown
    ]


def guard_facts(manifest: Manifest) -> dict[str, str]:
    """What a page says of the guard: detector, classifier, calibration and where it is from."""
    classifier, calibration = manifest.classifier, manifest.calibration
    settings = ", ".join(f"{k}={v}" for k, v in manifest.detector.hyperparameters.items())
    facts = {
        "Detector": f"{manifest.detector.name} ({settings or 'no hyper-parameters'})",
        "Classifier": f"{classifier.num_classes} classes, {classifier.num_features} neurons in the "
        "penultimate layer",
        "Training images": f"{manifest.training.images:,}",
    }
    if calibration is not None:
        facts |= {
            "Calibration images": f"{calibration.images:,}",
            "False alarms": f"{calibration.promise}",
            "Threshold": f"{calibration.threshold:.6g}"
            + (" (others for some classes)" if calibration.class_thresholds else ""),
        }
    if manifest.training.doubt:
        facts["Doubt"] = manifest.training.doubt
    return facts | {
        "Guard made": f"{manifest.created} by neroli {manifest.neroli_version}",
        "Weights hash": classifier.weights_hash,
    }
