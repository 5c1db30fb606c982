"""Are explanations faithful? Tests of heat maps and shares on real networks and images.

    python benchmarks/explanations.py [--network resnet20] [--images 100] [--tests places]

Parts: what a deviation is made of. Pixels: what happens as the most relevant blocks are deleted.
Neurons: what happens to the score as those with the largest shares or deviations become usual.
Weights: do maps change when the network is randomised? Places: is a pasted patch found? Intervals
(95 %) are over images. Trained on CIFAR-10; guards are fitted on ``--training`` training images.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from pathlib import Path

import faithfulness as measure
import torch
from explained import (
    BATCH,
    PASTED,
    STARTS,
    Subject,
    class_means,
    noise,
    pasted,
    run_of,
    shares_of,
    sizes,
)
from faithfulness import interval, shown, table
from torch import Tensor

from neroli import Activations, Classifier, fit
from neroli.detectors import DEFAULT, Detector, create
from neroli.explain import Reference, neurons_of, of_prediction, propagate

STAGES = {  # from the head downwards
    "resnet20": ("linear", "layer3", "layer2", "layer1", "conv1"),
    "densenet100": ("fc", "block3", "block2", "block1", "conv1"),
}

SUMS = ("line", "energy", "cadref", "relative_mahalanobis", "vim", DEFAULT)
"""Other detectors whose score is a sum over neurons, of which these are tested."""


def pixels(subject: Subject) -> Iterator[str]:
    """Blocks of pixels are deleted: of the prediction, and of the deviation."""
    images, classifier = subject.inside, subject.classifier
    classes = run_of(classifier, images).predictions
    prediction = of_prediction(classifier, images, batch_size=BATCH).relevance
    gradient = measure.gradient_times_input(classifier.model, images, classes)
    orders = {
        "heat map": prediction,
        "gradient x input": gradient,
        "gradient x input, absolute": gradient.abs(),
        "middle first": measure.centre_first(prediction),
        "random (chance)": noise(images),
    }

    def logit(changed: Tensor) -> Tensor:
        return run_of(classifier, changed).logits.gather(1, classes[:, None])[:, 0]

    rows: dict[str, list[str]] = {name: [] for name in orders}
    for instead in (measure.blurred(images), measure.mean_colour(images)):
        areas = {
            name: measure.area(measure.deletion_curve(logit, images, instead, order))
            for name, order in orders.items()
        }
        for name, values in areas.items():
            below = areas["random (chance)"] - values
            rows[name] += [shown(interval(values)), shown(interval(below))]
    columns = [
        f"{what}: {kind}"
        for what in ("blurred", "mean colour")
        for kind in ("area", "below random")
    ]
    yield "Predicted class's logit as blocks are deleted\n\n" + table("order", columns, rows)

    rows = {}
    for detector in subject.detectors:
        orders = {}
        for start in STARTS:
            maps = {
                name: subject.deviation(detector, x, start) for name, x in subject.outside.items()
            }
            orders[f"{start}, absolute"] = {name: m.abs() for name, m in maps.items()}
            if start == "as it is":
                orders[f"{start}, positive"] = maps
        orders["random (chance)"] = {name: noise(x) for name, x in subject.outside.items()}
        for order, of in orders.items():
            cells = []
            for name, x in subject.outside.items():
                curve = measure.deletion_curve(
                    subject.score(detector), x, measure.blurred(x), of[name]
                )
                cells += [shown(interval(measure.area(curve), curve[0]))]
            rows[f"{detector}: {order}"] = cells
    yield "Score as blocks are blurred, area over the score at first\n\n" + table(
        "order", list(subject.outside), rows
    )


def neurons(subject: Subject) -> Iterator[str]:
    """Neurons are given the mean feature of the class that the image is compared with."""
    head = subject.classifier.head
    means = subject.mean_features
    size = head.num_features
    at = torch.tensor([0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    steps = (at * size).round().long()
    five = int((at == 0.05).nonzero()[0])
    rows: dict[str, list[str]] = {}
    more: list[Detector] = [create(name) for name in SUMS]
    references = [Reference(detector) for detector in more]
    fit([*more, *references], subject.training, head)
    added = {d.name: (d, r) for d, r in zip(more, references, strict=True)}
    for name, (detector, reference) in (subject.detectors | added).items():
        for images in subject.outside.values():
            batch = run_of(subject.classifier, images)
            found = neurons_of(detector, reference, batch)
            orders = {
                "by share": shares_of(found),
                "by deviation": found.deviation.abs(),
                "random (chance)": torch.rand(
                    found.deviation.shape, generator=torch.Generator().manual_seed(0)
                ),
            }

            def run(features: Tensor, detector: Detector = detector) -> Tensor:
                return detector.score(Activations.from_features(features, head))

            for order, values in orders.items():
                curve = measure.neuron_curve(
                    run, batch.features, means[found.classes], values, steps
                )
                fall = curve[0] - curve[-1]
                rows.setdefault(f"{name}: {order}", []).extend(
                    [
                        shown(interval(measure.area(curve - curve[-1], steps / size), fall)),
                        shown(interval(curve[0] - curve[five], fall)),
                    ]
                )
    columns = [f"{name}: {what}" for name in subject.outside for what in ("area", "gone after 5 %")]
    yield (
        "Score as neurons become usual: above that of all usual, over what it is at first\n\n"
        + table("order", columns, rows)
    )


def parts(subject: Subject) -> Iterator[str]:
    """What the deviation is made of: evidence beyond the usual, below it, or none at all."""
    rows = {}
    for name, (detector, reference) in subject.detectors.items():
        for where, images in {"cifar10": subject.inside, **subject.outside}.items():
            found = neurons_of(detector, reference, run_of(subject.classifier, images))
            size = found.deviation.abs().sum(1)
            below = (found.deviation.clamp(max=0) * found.active).sum(1).abs() / size
            beyond = 1 - found.missing - below
            shares = (beyond, below, found.missing, found.deviation.sum(1) / size)
            rows[f"{name}, {where}"] = [shown(interval(share)) for share in shares]
    columns = ["beyond the usual", "below it, of active neurons", "of silent neurons", "net"]
    yield "Shares of the deviation, in absolute values; net: its sum over them\n\n" + table(
        "images", columns, rows
    )


def weights(subject: Subject) -> Iterator[str]:
    """The network is randomised from the head downwards, one stage after the other."""
    images = subject.inside
    classes = run_of(subject.classifier, images).predictions
    compared = {
        name: neurons_of(d, r, run_of(subject.classifier, images)).classes
        for name, (d, r) in subject.detectors.items()
    }
    some = subject.training_images[:500]
    known = subject.training.predictions[:500]

    def maps(classifier: Classifier) -> dict[str, Tensor]:
        """Of the same classes whatever the network now predicts; what is usual is learned anew."""
        head = classifier.head
        training = run_of(classifier, some)

        def evidence(batch: Activations, of: Tensor) -> Tensor:
            return head.weight[of] * batch.features

        def relevance(batch: Activations) -> Tensor:
            return subject.detectors["nero"][0].evidence(head)(batch)[:, :-1]

        usual = {
            "nero": class_means(relevance(training), known)[compared["nero"]],
            "relevance_deviation": class_means(evidence(training, known), known)[
                compared["relevance_deviation"]
            ],
        }
        batch = run_of(classifier, images)
        starts = {
            "prediction": evidence(batch, classes),
            "deviation, nero": relevance(batch) - usual["nero"],
            "deviation, relevance_deviation": evidence(batch, classes)
            - usual["relevance_deviation"],
        }
        found = {
            name: propagate(classifier, images, start * (batch.features != 0), batch_size=BATCH)
            for name, start in starts.items()
        }
        gradient = measure.gradient_times_input(classifier.model, images, classes)
        return {name: f.relevance for name, f in found.items()} | {"gradient x input": gradient}

    original = maps(subject.classifier)
    model = copy.deepcopy(subject.classifier.model)
    columns = {"another image (chance)": {name: m.roll(1, 0) for name, m in original.items()}}
    torch.manual_seed(0)
    for stage in STAGES[subject.network]:
        measure.reinitialise(model.get_submodule(stage), subject.training_images[:200], model)
        altered = Classifier(model, head=subject.classifier.head_name)
        columns[f"+ {stage}"] = maps(altered)
    for kind in ("signed", "absolute"):
        rows = {}
        for name, before in original.items():
            pairs = [(before, after[name]) for after in columns.values()]
            if kind == "absolute":
                pairs = [(a.abs(), b.abs()) for a, b in pairs]
            rows[name] = [shown(interval(measure.rank_correlation(a, b))) for a, b in pairs]
        yield f"Rank correlation with the original, {kind}\n\n" + table("map", list(columns), rows)


def places(subject: Subject) -> Iterator[str]:
    """Patches are pasted into correctly classified images, and looked for."""
    rows: dict[str, list[str]] = {}
    restored: dict[str, list[str]] = {}
    without: dict[str, Tensor] = {}
    for source in PASTED:
        images, inside = pasted(subject, source)
        maps = sizes(subject, images)
        for name, size in maps.items():
            share = measure.share_inside(size, inside)
            if source == "nothing":
                without[name] = share
                rows[name] = [shown(interval(share))]
            else:
                gain = shown(interval(share - without[name]))
                rows[name].append(f"{share.mean():.2f}, {gain}")
        if source == "nothing":
            continue
        for detector in subject.detectors:
            orders = {n: m for n, m in maps.items() if n.startswith(detector)} | {
                f"{detector}: prediction": maps["prediction"],
                f"{detector}: patch first (best)": inside.float(),
                f"{detector}: random (chance)": noise(images),
            }
            run = subject.score(detector)
            raised = (rise := run(images) - run(subject.inside)) > 0
            count = f"{100 * raised.float().mean():.0f} %"
            restored.setdefault(f"{detector}: *images whose score rises*", []).append(count)
            for name, order in orders.items():
                curve = measure.deletion_curve(run, images, subject.inside, order)
                left = measure.area(curve - curve[-1])[raised]
                restored.setdefault(name, []).append(shown(interval(left, rise[raised])))
    columns = ["without a patch", *(f"{source}: share, gain" for source in PASTED[1:])]
    yield "Share of the map in the patch, which is 0.14 of the image\n\n" + table(
        "map", columns, rows
    )
    yield (
        "Rise of the score by the patch, as blocks get their own pixels back: area over the rise"
        "\n\n" + table("order", list(PASTED[1:]), restored)
    )


TESTS = {
    "parts": parts,
    "pixels": pixels,
    "neurons": neurons,
    "weights": weights,
    "places": places,
}
IMAGES = {"resnet20": (100, 5000), "densenet100": (25, 1500)}
"""How many images of each set, and for training, unless told."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", default=list(IMAGES), choices=list(IMAGES))
    parser.add_argument("--images", type=int)
    parser.add_argument("--training", type=int)
    parser.add_argument("--tests", nargs="+", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = []
    for network in options.network:
        images, training = IMAGES[network]
        start = time.perf_counter()
        subject = Subject.of(network, options.images or images, options.training or training)
        texts.append(
            f"**{network}** ({len(subject.inside)} images of each set, guards fitted on "
            f"{len(subject.training)})"
        )
        print(texts[-1], flush=True)
        for test in options.tests:
            for text in TESTS[test](subject):
                texts.append(text)
                print(f"\n{text}\n\n({time.perf_counter() - start:.0f} s)", flush=True)
    if options.out:
        options.out.write_text("\n\n".join(texts) + "\n")


if __name__ == "__main__":
    main()
