"""What the authors' programs gave, and the head and features they were given, in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch

from neroli import LinearHead

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def authors(shared: Path) -> Arrays:
    with np.load(shared / "golden" / "authors_scores.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def altered(shared: Path) -> Arrays:
    """The same with every seventh training label changed."""
    with np.load(shared / "golden" / "authors_scores_altered_labels.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def golden_head(golden: Arrays) -> LinearHead:
    weight, bias = (torch.from_numpy(golden[name]).double() for name in ("weight", "bias"))
    return LinearHead(weight, bias)
