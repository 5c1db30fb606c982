"""Is the head of every architecture found, or refused with a reason? Never a wrong one.

    python benchmarks/architectures.py [--write] [NAME ...]

Makes one small network of each family of timm, torchvision and transformers, without downloads, and
gives it random parameters: none stays at the zeros or ones that some start from, batch norms have
the statistics of random images, and all weights are drawn smaller where the logits would otherwise
exceed 20. ``Classifier`` then looks for the head on three random images. On three others
``W f + b`` must equal the network's own logits to 1e-4, absolutely, computed in float64; and the
network must be without hooks and in the mode it was in.

``--write`` makes docs/models.md of the results. Ends with 1 if a head that was found is wrong, or
if fewer than 64 of all architectures work. About three minutes on one core.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from networks_surveyed import ARCHITECTURES, Architecture
from torch import Tensor, nn

from neroli import Classifier
from neroli.errors import HeadNotFound, InvalidInput

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
SOURCES = ("timm", "torchvision", "transformers")
BOUND = 1e-4
ENOUGH = 64
IMAGES = 3


@dataclass(frozen=True)
class Result:
    """What came of one architecture: its head and the largest error, or why there is none."""

    architecture: Architecture
    network: str
    parameters: int
    head: str = ""
    width: int = 0
    error: float = 0.0
    refusal: str = ""

    @property
    def works(self) -> bool:
        return not self.refusal

    @property
    def wrong(self) -> bool:
        return self.works and not self.error <= BOUND  # NaN is wrong too

    def row(self) -> str:
        """Its row in the table of its library."""
        size = self.architecture.size
        cells = [f"`{self.architecture.name}`", f"`{self.network}`", str(size)]
        cells.append(f"{self.parameters / 1e6:.1f}")
        if self.works:
            head = self.head.replace("|", "\\|")  # else it would end the cell
            cells += [f"`{head}`", str(self.width), f"{self.error:.0e}"]
        else:
            cells += [self.refusal.partition(":")[0], "", ""]
        return f"| {' | '.join(cells)} |"


def images_of(size: int, seed: int, count: int = IMAGES) -> Tensor:
    """Random coloured patches with noise, each image of another contrast: features must differ."""
    draw = torch.Generator().manual_seed(seed)
    patches = torch.randn(count, 3, 5, 5, generator=draw)
    patches = nn.functional.interpolate(patches, (size, size), mode="bilinear")
    contrast = torch.linspace(0.5, 1.5, count)[:, None, None, None]
    return contrast * (patches + 0.5 * torch.randn(count, 3, size, size, generator=draw))


def randomise(model: nn.Module, size: int, seed: int = 0) -> None:
    """Draw all parameters anew, smaller and smaller until no logit exceeds 20; sets eval mode.

    Raises:
        ValueError: if that fails, or if the logits hardly depend on the image.
    """
    images = images_of(size, seed)
    for gain in (1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.1):  # 1.4 keeps the variance through ReLUs
        _draw(model, gain, torch.Generator().manual_seed(seed))
        _settle_batch_norms(model, images_of(size, seed + 1, count=6))
        with torch.no_grad():
            logits = logits_of(model(images))
        if logits.abs().max() < 20:
            break
    else:
        raise ValueError("the logits of these random weights are too large")
    if logits.abs().max() < 0.2 or logits.std(0).mean() < 0.01:
        raise ValueError("the logits of these random weights hardly depend on the image")


def _draw(model: nn.Module, gain: float, draw: torch.Generator) -> None:
    for name, parameter in model.named_parameters():
        drawn = torch.empty(parameter.shape)
        if parameter.ndim >= 2 and len(parameter) > 1:
            drawn.normal_(0, gain * parameter[0].numel() ** -0.5, generator=draw)
        elif name.endswith("bias") or parameter.ndim >= 2:  # a position or a token is [1, ..., D]
            drawn.normal_(0, 0.1, generator=draw)
        else:  # the scale of a norm or of a layer
            drawn.uniform_(0.5, 1.5, generator=draw)
        parameter.data = drawn


def _settle_batch_norms(model: nn.Module, images: Tensor) -> None:
    """Give every batch norm the statistics of these images, as training would."""
    model.train()  # LeViT forgets the position biases it has cached only here
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the statistics are then those of one batch
        norm.reset_running_stats()
        norm.train()
    if norms:
        with torch.no_grad():
            model(images)
    model.eval()
    for norm in norms:
        assert norm.running_var is not None
        norm.running_var += 0.01  # a few images alone may hardly vary, others would then explode


def logits_of(output: Any) -> Tensor:
    """The logits in what a network returns."""
    if isinstance(output, Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output[0]


def examine(architecture: Architecture) -> Result:
    """Find the head on some images and check it on others."""
    model = architecture.make()
    randomise(model, architecture.size)
    known = (architecture, type(model).__name__, sum(p.numel() for p in model.parameters()))
    first, others = (images_of(architecture.size, seed) for seed in (10, 11))
    with torch.no_grad():
        logits = logits_of(model(others))
    model.train()
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0  # a pattern that only restoring every module keeps
    before = state_of(model)
    classifier = Classifier(model)
    try:
        classifier.find_head(first)
    except (HeadNotFound, InvalidInput) as error:
        result = Result(*known, refusal=f"{type(error).__name__}: {reason_of(error)}")
    else:
        features, head = classifier(others).features.double(), classifier.head
        found = features @ head.weight.double().T + head.bias.double()
        worst = float((found - logits.double()).abs().max())
        result = Result(*known, classifier.head_name, head.num_features, worst)
    if state_of(model) != before:
        raise AssertionError(f"{architecture} was not given back as it was")
    return result


def state_of(model: nn.Module) -> list[tuple[bool, int]]:
    """Of every module its mode and how many hooks it has."""
    return [
        (module.training, len(module._forward_hooks) + len(module._forward_pre_hooks))
        for module in model.modules()
    ]


def reason_of(error: Exception) -> str:
    """The first reason of a refusal, without the remedies behind it."""
    text = str(error)
    if isinstance(error, HeadNotFound):
        text = text.partition(": ")[2].partition("; ")[0] or text
    return text.partition(". ")[0].rstrip(".")


def paragraph(text: str, indent: str = "") -> str:
    """Prose wrapped to the width of the documentation."""
    return textwrap.fill(
        text, 125, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def page(results: Sequence[Result]) -> str:
    """docs/models.md."""
    working = sum(result.works for result in results)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *SOURCES))
    parts = [
        "# Which networks work",
        paragraph(
            f"neroli finds the linear head in {working} of these {len(results)} image classifiers, "
            "small members of their families, and says of the others why it does not. The weights "
            "are random, since only the architecture matters here; nothing is downloaded. The head "
            f"was looked for on {IMAGES} random images. The error is the largest difference, on "
            f"{IMAGES} other images, between `W f + b` of the features `f` that neroli gives and "
            f"the network's own logits (of the order of one to ten); it must be below {BOUND:.0e}. "
            "Every network was given back in the mode it was in and without hooks."
        ),
        paragraph(
            'A head `"head|head_dist"` means two heads on two tokens whose logits are averaged, '
            'their features side by side; `"head+head_dist"` two averaged heads on the same '
            "features: see [Your model](classifier.md)."
        ),
        paragraph(
            f"With {versions}, and ten classes. Most of those of transformers are made of "
            "configurations smaller than the published ones, so their feature widths *D* are too; "
            "timm's BEiT has two of its twelve blocks, and some networks are given smaller images. "
            "ImageGPT and SigLIP 2 of transformers take tokens or patches, not images, and are not "
            "among them. "
            "`python benchmarks/architectures.py --write` makes this page."
        ),
    ]
    for source in SOURCES:
        own = [result for result in results if result.architecture.source == source]
        parts += [
            f"## {source}: {sum(result.works for result in own)} of {len(own)}",
            "| name | class | input | parameters, millions | head | *D* | error |\n"
            "|---|---|---|---|---|---|---|\n" + "\n".join(result.row() for result in own),
        ]
    parts += [
        "## What does not work, and what to do",
        "\n".join(
            paragraph(
                f"- `{result.architecture}` ({result.refusal}). "
                + (result.architecture.advice or "See [Your model](classifier.md)."),
                "  ",
            )
            for result in results
            if not result.works
        ),
        paragraph(
            "Of a network that is not listed, `Classifier(model)(images)` says in a moment whether "
            "its head is found; [Your model](classifier.md) explains the messages."
        ),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Examine the architectures named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="resnet18 or timm:resnet18")
    parser.add_argument("--write", action="store_true", help="make docs/models.md")
    options = parser.parse_args()
    chosen = [
        architecture
        for architecture in ARCHITECTURES
        if not options.names or {architecture.name, str(architecture)} & set(options.names)
    ]
    if not chosen or (options.write and options.names):
        parser.error("--write takes all architectures" if chosen else "no such architecture")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    torch.set_num_threads(1)  # more only wait for each other on a busy machine
    results = []
    for architecture in chosen:
        result = examine(architecture)
        results.append(result)
        found = f"{result.head} {result.width} {result.error:.0e}"
        verdict = "WRONG " if result.wrong else ""
        print(f"{architecture}: {verdict}{found if result.works else result.refusal}", flush=True)
        gc.collect()  # some networks hold themselves in a cycle
    working = sum(result.works for result in results)
    print(f"{working} of {len(results)} work")
    if options.write:
        PAGE.write_text(page(results))
    if any(result.wrong for result in results) or (not options.names and working < ENOUGH):
        sys.exit(1)


if __name__ == "__main__":
    main()
