"""What a benchmark costs beside a bare forward loop, and beside a library that re-runs the model.

    python benchmarks/bench_command.py [--suite cifar10-densenet] [--limit 1000] [--theirs 5]

One process after the other over the same images: the network alone; `neroli bench` with all
head-level detectors, from reading the files to the report; the same once more, with all activations
stored; and five detectors of pytorch-ood as its examples use it, each of which runs the network
itself (--theirs 0 leaves them out).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from common import shared_data
from torch import Tensor, nn

from neroli.benchmark.images import BenchmarkImages, benchmark_images
from neroli.benchmark.model import classifier_of
from neroli.benchmark.runner import Options, evenly, sets_of
from neroli.benchmark.suite import Suite, read_suite
from neroli.classifier import Classifier
from neroli.data.pictures import Pictures


def seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def batches(pictures: Pictures, classifier: Classifier) -> Iterator[tuple[Tensor, Tensor | None]]:
    for batch in pictures.batches(classifier.preprocessing, 64):
        yield batch.images, batch.labels


def forward(sets: dict[str, Pictures], classifier: Classifier) -> int:
    """The bare loop: decode, preprocess, run the network; how many images."""
    count = 0
    with torch.inference_mode():
        for pictures in sets.values():
            for images, _ in batches(pictures, classifier):
                classifier.model(images)
                count += len(images)
    return count


def bench(suite: str, data: Path, out: Path, limit: int | None) -> None:
    command = [sys.executable, "-m", "neroli", "bench", suite, "--data", str(data)]
    command += ["--out", str(out), "--detectors", "head"]
    command += [] if limit is None else ["--limit", str(limit)]
    subprocess.run(command, check=True, capture_output=True)


def re_running(sets: dict[str, Pictures], classifier: Classifier, number: int) -> None:
    """Detectors of pytorch-ood, each fitted and scored by running the network itself."""

    from peers import theirs as library

    model = classifier.model
    linear = next(m for m in reversed(list(model.modules())) if isinstance(m, nn.Linear))

    def features(images: Tensor) -> Tensor:
        taken: list[Tensor] = []
        hook = linear.register_forward_hook(lambda module, given, result: taken.append(given[0]))
        model(images)
        hook.remove()
        return taken[0]

    made = [
        library.MaxSoftmax(model),
        library.EnergyBased(model),
        library.KNN(features),
        library.ViM(features, d=linear.in_features // 2, w=linear.weight, b=linear.bias),
        library.ReAct(features, linear),
    ]
    with torch.inference_mode():
        for detector in made[:number]:
            if getattr(detector, "requires_fit", True):
                detector.fit([(x, y) for x, y in batches(sets["train"], classifier)])
            for name, pictures in sets.items():
                if name != "train":
                    for images, _ in batches(pictures, classifier):
                        detector(images)


def loaded(suite: Suite, data: Path) -> tuple[BenchmarkImages, Classifier]:
    images = benchmark_images(suite, data)
    return images, classifier_of(suite, images, data, Path())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="cifar10-densenet")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--theirs", type=int, default=5)
    options = parser.parse_args()
    images, classifier = loaded(read_suite(options.suite), shared_data())
    sets = sets_of(images, classifier, Options(limit=options.limit))
    forward({"some": evenly(sets["test"], 64)}, classifier)  # warm
    count = 0

    def once() -> None:
        global count
        count = forward(sets, classifier)

    bare = seconds(once)
    print(f"{options.suite}, {count:,} images: network alone {bare:.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        for number in ("first", "second"):
            took = seconds(lambda: bench(options.suite, shared_data(), out, options.limit))
            print(f"neroli bench, {number} run: {took:.1f} s, {took / bare:.2f} of the network")
    if options.theirs:
        took = seconds(lambda: re_running(sets, classifier, options.theirs))
        print(f"pytorch-ood, {options.theirs} detectors: {took:.1f} s, {took / bare:.2f} of it")
