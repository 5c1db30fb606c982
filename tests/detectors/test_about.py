"""What a detector says of itself, in words."""

from __future__ import annotations

from neroli.detectors import Ensemble, Views
from neroli.detectors.about import setting


def test_settings_are_said_in_words() -> None:
    assert [setting(v) for v in (True, None, 90.0, 0.25, 3, "mean", ["layer1", "layer2"], ())] == [
        "yes", "not set", "90", "0.25", "3", "mean", "layer1, layer2", "none",
    ]  # fmt: skip


def test_a_detector_inside_of_another_is_its_name_and_what_is_set_of_it() -> None:
    settings = Ensemble(members=["max_logit", "vim", "line"]).hyperparameters()
    assert setting(settings["members"]) == (
        "max_logit, vim, line (weight_percentile 90, activation_percentile 10, labels true)"
    )
    settings = Views("vim", views=["mirror", "left:2"]).hyperparameters()
    assert setting(settings["detector"]) == "vim"
    assert setting(settings["views"]) == "mirror, left:2"
