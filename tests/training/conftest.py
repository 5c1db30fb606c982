"""Pictures of three colours, and a module of networks as a user would write them."""

import sys
from pathlib import Path

import numpy as np
import pytest

from neroli.data.arrays import ArrayFile
from neroli.data.pictures import Pictures
from networks import colour_images

OWN_MODELS = """
import torch
from torch import nn
from networks import tiny_network

SIZES = []

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
        )
    def forward(self, x):
        if self.training:
            SIZES.append(len(x))
        return self.layers(x)

def frozen():
    return Counting().requires_grad_(False)

class Failing(Counting):
    def __init__(self, in_training):
        super().__init__()
        self.in_training = in_training
    def forward(self, x):
        logits = super().forward(x)
        fails = self.training == self.in_training and len(SIZES) > 10  # of 8 batches an epoch
        return logits * float("nan") if fails else logits

def exploding():
    return Failing(True)

def blind():
    return Failing(False)

def without_parameters():
    return nn.Flatten()

kept = tiny_network(3)
"""


@pytest.fixture(autouse=True)
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(OWN_MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Pictures, Pictures]:
    """60 training and 30 validation pictures of three colours."""
    sides = []
    for side, count, seed in (("training", 60, 1), ("validation", 30, 2)):
        images, labels = colour_images(count, seed)
        np.savez(tmp_path / f"{side}.npz", images=images, labels=labels)
        sides.append(ArrayFile(tmp_path / f"{side}.npz"))
    return sides[0], sides[1]
