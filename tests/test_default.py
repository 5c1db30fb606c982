"""The detector that guards have unless told otherwise: what it is, and what it promises."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from conftest import random_activations
from neroli import Activations, Classifier, Guard, LinearHead, fit
from neroli.cli import app
from neroli.detectors import DEFAULT, create
from networks import colour_loader, colour_tensors, trained_colour_network

MEMBERS = ["cadref", "line", "relative_mahalanobis", "vim"]


def test_the_default_needs_no_labels_and_all_calibration_images_set_the_threshold(
    tmp_path: Path,
) -> None:
    guard = Guard(Classifier(trained_colour_network())).fit(colour_loader(150, 1, labels=False))
    guard.calibrate(colour_loader(120, 2, labels=False))
    assert guard.detector.name == DEFAULT
    assert guard.held_out is not None
    assert (guard.held_out.images, guard.held_out.learned_from) == (120, 0)
    guard.save(tmp_path / "guard")
    images = colour_tensors(9, 3)[0]
    loaded = Guard.load(tmp_path / "guard", trained_colour_network())
    assert torch.equal(loaded(images).score, guard(images).score)
    shares = guard.explain(images[0]).neurons.shares
    assert shares is not None
    torch.testing.assert_close(shares.score, guard(images[:1]).score, rtol=1e-4, atol=1e-5)


def test_the_command_line_has_the_same_default(pictures: Path, tmp_path: Path) -> None:
    model = ["--model", "networks:colour_network", "--weights", pictures / "weights.safetensors"]
    data = ["--train", pictures / "train", "--calibration", pictures / "calibration"]
    more = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--out", tmp_path / "guard"]
    result = CliRunner().invoke(app, ["fit", *map(str, [*model, *data, *more])])
    assert result.exit_code == 0, result.output
    detector = json.loads((tmp_path / "guard/manifest.json").read_text())["detector"]
    assert detector["name"] == DEFAULT
    found = detector["hyperparameters"]["members"]
    assert [member["name"] for member in found] == MEMBERS


@pytest.mark.parametrize("huge", [1.0, 1e4])
def test_its_score_is_the_sum_of_its_neurons_shares_and_what_is_no_neurons(
    training: Activations, head: LinearHead, huge: float
) -> None:
    (default,) = fit([create(DEFAULT)], training, head)
    new = random_activations(head, 40, seed=5)
    far = Activations.from_features(new.features * huge, head)
    shares = default.shares(far)
    torch.testing.assert_close(shares.score, default.score(far), rtol=1e-9, atol=1e-9)
    assert "median" in shares.rest_is


def test_the_shares_of_a_mean_are_the_means_of_shares(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    """Where no score is so far from usual that it is clipped."""
    ensemble = create("ensemble", members=["cadref", "vim"])
    parts = fit([create("cadref"), create("vim")], training, head)
    fit([ensemble], training, head)
    expected = torch.zeros_like(new.features)
    clipped = torch.zeros(len(new), dtype=torch.bool)
    for part in parts:
        known = part.score(training)
        unit = known.quantile(0.95) - known.median()
        standard = (part.score(new) - known.median()) / unit
        clipped |= (standard < -2.9) | (standard > 5.9)
        expected += part.shares(new).neurons / unit / 2
    usual = ~clipped
    assert usual.sum() > 20
    torch.testing.assert_close(
        ensemble.shares(new).neurons[usual], expected[usual], rtol=0.05, atol=1e-3
    )
