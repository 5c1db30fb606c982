"""Trainings of tiny networks on pictures of three colours."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from neroli.data.pictures import Pictures
from neroli.training import Recipe, Trained, train
from networks import COLOURS

PLAIN = Recipe(
    epochs=4,
    validate_every=2,
    batch_size=8,
    learning_rate=3e-3,
    size=8,
    flip=0,
    jitter=0,
    invert=0,
    equalise=0,
)
MIXED = dataclasses.replace(PLAIN, flip=0.5, jitter=0.25, invert=0.3, equalise=0.3)


def trained(
    sets: tuple[Pictures, Pictures],
    out: Path,
    recipe: Recipe = PLAIN,
    arch: str = "networks:colour_network",
    **more: Any,
) -> Trained:
    """What a training of a network on training and validation pictures gives."""
    return train(arch, *sets, out, recipe, **({"class_names": COLOURS} | more))


def same(first: Path, second: Path) -> bool:
    """Whether two files hold the same weights."""
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
