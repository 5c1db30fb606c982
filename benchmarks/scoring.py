"""What scoring costs beside the forward pass it rides on, and beside naive loops.

    python benchmarks/scoring.py [--images 10000] [--rounds 5]

All figures are ratios of jobs run in turn in one process: median, lowest and highest.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from common import PeakMemory, paired_ratio, ratios_in_turn, shared_data, spread

from neroli import Activations, Classifier, LinearHead, fit
from neroli.detectors import DEFAULT, MSP, NERO, Detector, Ensemble, LINe, catalogue, create
from neroli.errors import NeroliWarning
from neroli.models import import_torchvision
from neroli.relevance import relevance

APART = ("itp", "weiper_kld")
"""Which cost more than the others together."""
MANY_CLASSES = 100


def synthetic(rows: int, features: int, classes: int) -> tuple[LinearHead, Activations]:
    """Rectified random features around one centre a class."""
    draw = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(classes, features, generator=draw) / 20, torch.zeros(classes))
    labels = torch.arange(rows) % classes
    values = torch.randn(rows, features, generator=draw) + 5 * head.weight[labels]
    return head, Activations.from_features(values.clamp(min=0), head, labels)


def naive_relevance(batch: Activations, head: LinearHead) -> torch.Tensor:
    """Per sample, a C x D matrix of shares: the form the authors' program has."""
    rows = []
    for features, logits in zip(batch.features, batch.logits, strict=True):
        share = features * head.weight / logits[:, None]
        rows.append((logits.softmax(0)[:, None] * share).sum(0))
    return torch.stack(rows)


def naive_line(
    batch: Activations, head: LinearHead, masks: torch.Tensor, clip: float
) -> torch.Tensor:
    """Per sample, the weights masked for its class: the form the authors' program has."""
    rows = []
    for features in batch.features.clamp(max=clip):
        predicted = head(features[None]).argmax()
        weight = head.weight * masks[predicted]
        rows.append(-(features @ weight.T + head.bias).logsumexp(0))
    return torch.stack(rows)


def line_masks(line: LINe) -> Iterator[torch.Tensor]:
    """The C x D weight mask of every class, one at a time."""
    for kept in line.kept:
        yield line.rank < kept


def report(name: str, ratio: tuple[float, float, float]) -> None:
    print(f"{name:<58} {ratio[0]:8.3f}  ({ratio[1]:.3f} to {ratio[2]:.3f})")


def jobs(
    classifier: Classifier, batches: Sequence[torch.Tensor], detectors: Mapping[str, list[Detector]]
) -> tuple[Callable[[], None], dict[str, Callable[[], None]]]:
    """The bare forward loop over batches, and scoring the same with some detectors each."""

    def bare() -> None:
        with torch.no_grad():
            for batch in batches:
                classifier.model(batch)

    def scored(detectors: list[Detector]) -> None:
        for batch in batches:
            activations = classifier(batch)
            for detector in detectors:
                detector.score(activations)

    return bare, {name: partial(scored, some) for name, some in detectors.items()}


def on_resnet20(images: int, rounds: int) -> dict[str, list[float]]:
    """Scoring CIFAR-10 images over the bare forward loop, by what scores."""
    from cifar import load_classifier, load_images

    shared = shared_data()
    classifier = load_classifier(shared, "resnet20")
    batches = classifier.prepare(load_images(shared, "test")[0][:images]).split(128)
    pictures, labels = load_images(shared, "train")
    training = classifier(pictures[::4], torch.from_numpy(labels[::4]))
    fitted = fit([Ensemble(), NERO(), LINe(), MSP()], training, classifier.head)
    alone = {type(detector).__name__: [detector] for detector in fitted}
    bare, scored = jobs(classifier, batches, {"features and logits alone": [], **alone})
    return ratios_in_turn(scored, bare, rounds)


def on_resnet50(classes: int, rounds: int) -> dict[str, list[float]]:
    """Scoring images at 224 over the bare forward loop, by what scores; 2,048 features.

    The default, NERO, LINe and maximum logit alone, all head-level detectors but the ``APART``
    together, and these alone.
    """
    import_torchvision()
    from torchvision.models import resnet50

    torch.manual_seed(0)
    classifier = Classifier(resnet50(num_classes=classes).eval())
    batches = torch.randn(64, 3, 224, 224).split(32)
    classifier.find_head(batches[0])
    features = synthetic(12_000, 2048, classes)[1].features
    training = Activations.from_features(features, classifier.head, torch.arange(12_000) % classes)
    names = [n for n in catalogue.ready_names() if not catalogue.requirements(create(n))]
    if classes > MANY_CLASSES:
        names = [name for name in names if name != "weiper_kld"]  # takes days to fit
    banks = {"knn": {"bank_size": 10_000}, "nnguide": {"bank_size": 10_000}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeroliWarning)
        fitted = fit([create(n, **banks.get(n, {})) for n in names], training, classifier.head)
    by_name = {detector.name: detector for detector in fitted}
    alone = [name for name in (DEFAULT, "nero", "line", "max_logit", *APART) if name in by_name]
    together = [detector for detector in fitted if detector.name not in APART]
    groups = {name: [by_name[name]] for name in alone}
    bare, scored = jobs(
        classifier, batches, groups | {f"the other {len(together)} together": together}
    )
    return ratios_in_turn(scored, bare, rounds)


def loops(rounds: int) -> None:
    print("\nnaive per-sample loop / neroli, 1,000 rows (higher is better)")
    for features, classes in ((342, 10), (512, 100), (2048, 100)):
        head, data = synthetic(3000, features, classes)
        line = LINe(90, 10, 1.0).fit(data, head)
        masks = torch.stack(list(line_masks(line))).float()
        batch = data[:1000]
        torch.testing.assert_close(
            naive_line(batch, head, masks, 1.0), line.score(batch), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            naive_relevance(batch, head), relevance(batch, head)[0], rtol=1e-2, atol=1e-4
        )
        size = f"D={features}, C={classes}"
        ratio = paired_ratio(
            lambda b=batch, h=head: naive_relevance(b, h),  # type: ignore[misc]
            lambda b=batch, h=head: relevance(b, h),  # type: ignore[misc]
            rounds,
        )
        report(f"NERO relevance, {size}", ratio)
        ratio = paired_ratio(
            lambda b=batch, h=head, m=masks: naive_line(b, h, m, 1.0),  # type: ignore[misc]
            lambda b=batch, d=line: d.score(b),  # type: ignore[misc]
            rounds,
        )
        report(f"LINe, {size}", ratio)


@dataclass(frozen=True)
class LargeLINe:
    """What LINe takes at C=1000, D=2048: MB of state, seconds to fit, and for a batch of 256."""

    state: float
    fit: float
    score: float
    memory: float


def imagenet_sized_line() -> LargeLINe:
    """LINe fitted on 4,000 synthetic rows, scoring 256 of them."""
    head, data = synthetic(4000, 2048, 1000)
    line = LINe(90, 10, 1.0)
    start = time.perf_counter()
    line.fit(data, head)
    fitting = time.perf_counter() - start
    state = sum(t.numel() * t.element_size() for t in line.state().values()) / 1e6
    batch = data[:256]
    with PeakMemory() as memory:  # the first call also places what was learned
        line.score(batch)
    start = time.perf_counter()
    line.score(batch)
    return LargeLINe(state, fitting, time.perf_counter() - start, memory.peak - memory.start)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"ResNet-20, {options.images} CIFAR-10 test images; time / bare forward loop")
    for name, ratios in on_resnet20(options.images, options.rounds).items():
        report(name, spread(ratios))
    for classes in (10, 100, 1000):
        print(f"\nResNet-50 at 224, {classes} classes, banks of 10,000; time / bare forward loop")
        for name, ratios in on_resnet50(classes, options.rounds).items():
            report(name, spread(ratios))
    loops(options.rounds)
    found = imagenet_sized_line()
    print(
        f"\nLINe at C=1000, D=2048: state {found.state:.1f} MB, fit {found.fit:.0f} s, a batch of "
        f"256 in {found.score:.2f} s with {found.memory:.0f} MB above the start "
        "(C x C x D in float32: 8,192 MB)"
    )
