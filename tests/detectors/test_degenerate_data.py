"""Data at the edge: scores stay finite, and a saved state still restores them."""

import pytest
import torch

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import create

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")

LABELLED = ("itp", "conjnorm", "ddcs", "feature_masking")
UNLABELLED = ("cadref", "caref", "weiper_kld", "nac")
EACH = pytest.mark.parametrize("name", LABELLED + UNLABELLED)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@EACH
@DTYPES
@pytest.mark.parametrize(
    "case", ["zero", "identical", "single", "two classes", "negative", "tiny", "huge"]
)
@pytest.mark.filterwarnings("ignore:.*made for features behind a ReLU")
@pytest.mark.filterwarnings("ignore:.*by the energy of the logits")
@pytest.mark.filterwarnings("ignore:.*multiplies logits")
def test_scores_are_finite(name: str, case: str, dtype: torch.dtype, head: LinearHead) -> None:
    if case == "two classes":
        head = LinearHead(head.weight[:2], head.bias[:2])
    data = random_activations(head, 5 if case == "single" else 40)
    features = data.features.to(dtype)
    if case == "zero":
        features = torch.zeros_like(features)
    elif case == "identical":
        features = features[:1].expand_as(features)
    elif case in ("negative", "tiny", "huge"):
        features = features * {"negative": -3.0, "tiny": 1e-12, "huge": 1e12}[case]
    training = Activations.from_features(features, head, data.labels)
    detector = create(name).fit(training, head)
    others = torch.cat([features, torch.zeros_like(features), data.features.to(dtype)])
    batch = Activations.from_features(others, head)
    scores = detector.score(batch)  # which raises if one is not finite
    assert scores.dtype == dtype
    restored = create(name).load_state(detector.state())
    assert torch.equal(restored.score(batch), scores)


@pytest.mark.parametrize("name", UNLABELLED)
def test_without_labels_nor_a_prediction_of_every_class(name: str, head: LinearHead) -> None:
    data = random_activations(head, 200)
    rows = (data.predictions != 3).nonzero()[:, 0]
    training = Activations.from_features(data.features[rows], head)
    assert create(name).fit(training, head).score(data).isfinite().all()
