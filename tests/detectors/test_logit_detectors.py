"""The logit detectors against values computed by hand and by SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

from neroli import Activations
from neroli.detectors import MSP, Energy, Entropy, MaxLogit
from neroli.errors import InvalidInput

LOGITS = np.array([[2.0, 1.0, -3.0], [0.0, 0.0, 0.0], [-800.0, 5.0, 4.0], [1e4, 0.0, -1e4]])
BATCH = Activations(torch.ones(4, 2, dtype=torch.float64), torch.from_numpy(LOGITS))


def test_equal_scipy() -> None:
    np.testing.assert_allclose(MSP().score(BATCH), -softmax(LOGITS, axis=1).max(1), rtol=1e-13)
    np.testing.assert_allclose(MaxLogit().score(BATCH), -LOGITS.max(1), rtol=1e-13)
    np.testing.assert_allclose(Energy().score(BATCH), -logsumexp(LOGITS, axis=1), rtol=1e-13)
    hot = Energy(temperature=3.0).score(BATCH)
    np.testing.assert_allclose(hot, -3 * logsumexp(LOGITS / 3, axis=1), rtol=1e-13)
    expected = entropy(softmax(LOGITS, axis=1), axis=1)
    np.testing.assert_allclose(Entropy().score(BATCH), expected, atol=1e-13)


def test_equal_logits_give_known_values() -> None:
    even = BATCH[1:2]
    assert MSP().score(even).item() == pytest.approx(-1 / 3)
    assert Entropy().score(even).item() == pytest.approx(math.log(3))
    assert Energy().score(even).item() == pytest.approx(-math.log(3))


def test_a_hyperparameter_changed_before_fitting_counts(new: Activations) -> None:
    energy = Energy()
    energy.score(new)
    energy.temperature = 3.0
    assert torch.equal(energy.score(new), Energy(3.0).score(new))


def test_a_score_that_overflows_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Energy score of row 0 is not finite"):
        Energy(temperature=1e-320).score(BATCH)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(InvalidInput, match="temperature"):
        Energy(temperature=temperature)
