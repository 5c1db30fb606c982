"""The main job on embedded data: a small digit classifier meets images of kinds it never saw.

Handwritten digits from scikit-learn (the data set "digits"): the classifier learns 0 to 6. Digits
7, 8 and 9 are near OOD; corrupted digits and patches of photographs are far OOD.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from neroli import metrics
from neroli.calibration import Calibration, Promise
from neroli.classifier import Classifier
from neroli.data import named
from neroli.data.named.digits import KNOWN
from neroli.data.pictures import Pictures
from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import ImageBatch
from neroli.detectors import MSP, NERO, Detector, Energy, Ensemble, LINe, MaxLogit
from neroli.fitting import fit
from neroli.guard import Guard

_PREPROCESSING = Preprocessing(mean=(0.3,), std=(0.38,), resize=(8, 8))


@dataclass(frozen=True, eq=False)
class DemoData:
    """Images as the network takes them, ``[N, 1, 8, 8]``, labels ``[N]``, and OOD sets by name."""

    train: TensorDataset
    calibration: TensorDataset
    test: TensorDataset
    ood: dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    """One detector on one OOD set: fractions in 0..1."""

    detector: str
    ood_set: str
    auroc: float
    fpr95: float
    flagged: float


@dataclass(frozen=True)
class DemoResult:
    """What the demo found and where it saved it."""

    test_accuracy: float
    promise: str
    test_images: int
    flagged_id: dict[str, float]
    rows: tuple[Row, ...]
    guard: Path
    picture: Path
    report: Path
    explanation: Path


def digit_network() -> nn.Module:
    """A small convolutional classifier of 8x8 grey images, with 64 penultimate features."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, KNOWN),
    )


def load_data() -> DemoData:
    """The data set "digits" as the network takes it."""
    data = named.load("digits")

    def part(name: str) -> TensorDataset:
        batch = _batch(data.id_sets[name])
        assert batch.labels is not None
        return TensorDataset(batch.images, batch.labels)

    return DemoData(
        train=part("train"),
        calibration=part("calibration"),
        test=part("test"),
        ood={ood.name: _batch(ood.images).images for ood in data.ood_sets},
    )


def train_network(data: DemoData, epochs: int = 40, seed: int = 0) -> nn.Module:
    """The digit network, trained on the known digits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = digit_network()
        optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(epochs):
            for images, labels in DataLoader(data.train, batch_size=32, shuffle=True):
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return network.eval()


def run(
    out: Path, false_alarm_rate: float = 0.05, say: Callable[[str], object] = lambda text: None
) -> DemoResult:
    """Train, fit six detectors in the same passes, calibrate, score, save a guard, and explain.

    Args:
        out: folder for ``guard/``, ``scores.png``, ``report.html`` and ``explanation.png``.
        false_alarm_rate: promised share of known digits flagged, in 0..1.
        say: told what is being done.
    """
    data = load_data()
    say("Training a small classifier on digits 0 to 6 ...")
    classifier = Classifier(
        train_network(data),
        preprocessing=_PREPROCESSING,
        class_names=[str(digit) for digit in range(KNOWN)],
    )
    say("Fitting six detectors, calibrating and scoring ...")
    training, held_out, test = (
        classifier(part.tensors[0], part.tensors[1])
        for part in (data.train, data.calibration, data.test)
    )
    ood = {name: classifier(images) for name, images in data.ood.items()}
    detectors = fit(
        [Ensemble(), NERO(), LINe(), MSP(), MaxLogit(), Energy()], training, classifier.head
    )
    rows, flagged_id, panels = [], {}, []
    for detector in detectors:
        calibration = Calibration(
            detector.score(held_out),
            held_out.predictions,
            KNOWN,
            Promise(false_alarm_rate),
        )
        scores = detector.score(test)
        flagged_id[detector.name] = _share(calibration.is_ood(scores, test.predictions))
        ood_scores = {name: detector.score(batch) for name, batch in ood.items()}
        for name, values in ood_scores.items():
            flagged = _share(calibration.is_ood(values, ood[name].predictions))
            rows.append(
                Row(
                    detector.name,
                    name,
                    metrics.auroc(scores, values),
                    metrics.fpr95(scores, values),
                    flagged,
                )
            )
        panels.append((detector, {"digits 0-6": scores, **ood_scores}, calibration.threshold))
    guard = Guard(classifier)
    guard.fit(DataLoader(data.train, batch_size=64), keep_examples=len(data.train))
    guard.calibrate(DataLoader(data.calibration, batch_size=64), false_alarm_rate)
    guard.save(out / "guard")
    _draw(panels, {"digits 0-6": data.test.tensors[0], **data.ood}, out / "scores.png")
    say("Explaining one image of each kind ...")
    _explain(guard, {"digits 0-6": data.test.tensors[0], **data.ood}, out)
    return DemoResult(
        test_accuracy=_share(test.predictions == data.test.tensors[1]),
        promise=str(Promise(false_alarm_rate)),
        test_images=len(test),
        flagged_id=flagged_id,
        rows=tuple(rows),
        guard=out / "guard",
        picture=out / "scores.png",
        report=out / "report.html",
        explanation=out / "explanation.png",
    )


def _batch(images: Pictures) -> ImageBatch:
    (batch,) = images.batches(_PREPROCESSING, len(images))
    return batch


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def _explain(guard: Guard, images: dict[str, Tensor], out: Path) -> None:
    """An image of each kind, with the middle score of its kind, as a page.

    And that of the digits not known as a figure.
    """
    from neroli.explain import explain, write_report
    from neroli.files import atomic_path

    middle = [int(guard(some).score.argsort()[len(some) // 2]) for some in images.values()]
    chosen = torch.stack([some[row] for some, row in zip(images.values(), middle, strict=True)])
    explanations = explain(guard, chosen, list(images))
    write_report(out / "report.html", explanations, guard.manifest())
    with atomic_path(out / "explanation.png") as temporary:
        explanations[1].figure().savefig(temporary, dpi=80)


_COLOURS = ("#0072B2", "#E69F00", "#CC79A7", "#009E73")  # Okabe and Ito: safe for colour-blind eyes


def _draw(
    panels: Sequence[tuple[Detector, dict[str, Tensor], float]],
    examples: dict[str, Tensor],
    path: Path,
) -> None:
    """How many images of each set score above any threshold, and a few of the images."""
    from matplotlib.figure import Figure

    from neroli.files import atomic_path

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    grid = figure.add_gridspec(3, 12, height_ratios=(1, 2.4, 2.4))
    for column, (name, images) in enumerate(examples.items()):
        axes = figure.add_subplot(grid[0, 3 * column : 3 * column + 3])
        axes.imshow(torch.cat(list(images[:6, 0]), dim=1).numpy(), cmap="gray")
        axes.set_title(name, color=_COLOURS[column], fontsize=10, fontweight="bold")
        axes.axis("off")
    for position, (detector, scores, threshold) in enumerate(panels):
        column = 4 * (position % 3)
        axes = figure.add_subplot(grid[1 + position // 3, column : column + 4])
        for (name, values), colour in zip(scores.items(), _COLOURS, strict=True):
            above = np.linspace(100, 0, len(values))
            axes.plot(np.sort(values.numpy()), above, color=colour, linewidth=1.8, label=name)
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label="threshold")
        low, high = np.quantile(np.concatenate([v.numpy() for v in scores.values()]), [0, 0.97])
        axes.set_xlim(low, high)
        axes.set_ylim(0, 100)
        axes.set_title(detector.name, fontsize=11)
        axes.set_xlabel("score (higher = more OOD)", fontsize=8)
        axes.set_ylabel("% of images above", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
