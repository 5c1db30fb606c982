"""Networks on a CPU with freed memory kept by the process, beside glibc's own way.

    python benchmarks/allocation.py [--rounds 3] [--batch 32] [--threads 1]

Each round runs the bare forward pass in two processes in turn. The second figure is peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from common import spread
from throughput import networks

from neroli.allocation import keep_freed_memory
from neroli.models import import_torchvision
from neroli.models.cifar import densenet100

NETWORKS = ("ResNet-18", "ResNet-50", "DeiT-S", "DenseNet-100")


def model_and_side(name: str) -> tuple[torch.nn.Module, int]:
    """A network with random weights, and how many pixels its images are wide."""
    if name == "DenseNet-100":
        return densenet100().eval(), 32
    if name == "ResNet-50":
        import_torchvision()
        import torchvision

        return torchvision.models.resnet50(weights=None).eval(), 224
    return dict(networks())[name], 224


def measured(name: str, batch: int, kept: bool) -> tuple[float, float]:
    """Seconds of a forward pass, the median of five, and peak memory in MB."""
    if kept:
        keep_freed_memory()
    model, side = model_and_side(name)
    images = torch.randn(batch, 3, side, side)
    seconds = []
    with torch.inference_mode():
        for _ in range(6):
            start = time.perf_counter()
            model(images)
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return spread(seconds[1:])[0], peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        name, kept = options.measure
        print(json.dumps(measured(name, options.batch, kept == "kept")))
        return

    def apart(name: str, how: str) -> tuple[float, float]:
        sizes = ["--batch", str(options.batch), "--threads", str(options.threads)]
        command = [sys.executable, __file__, *sizes, "--measure", name, how]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds, peak = json.loads(done.stdout)
        return seconds, peak

    print("images/s with freed memory kept over those without, and peak memory likewise")
    for name in NETWORKS:
        rounds = [(apart(name, "kept"), apart(name, "as usual")) for _ in range(options.rounds)]
        faster = spread([usual[0] / kept[0] for kept, usual in rounds])
        larger = spread([kept[1] / usual[1] for kept, usual in rounds])
        figures = [f"{m:.2f} ({low:.2f} to {high:.2f})" for m, low, high in (faster, larger)]
        print(f"{name:<14} {figures[0]:<22} {figures[1]}", flush=True)


if __name__ == "__main__":
    main()
