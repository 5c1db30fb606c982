"""The demo keeps its promise and writes what it says."""

from pathlib import Path

import numpy as np
from PIL import Image

from neroli import Guard
from neroli.demo import _share, digit_network, load_data, run, train_network


def test_the_demo_runs_and_its_figures_are_plausible(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.test_accuracy > 0.95
    assert result.flagged_id.keys() == {"ensemble", "nero", "line", "msp", "max_logit", "energy"}
    assert max(result.flagged_id.values()) < 0.1
    near = {row.detector: row.auroc for row in result.rows if row.ood_set == "digits 7-9"}
    assert min(near.values()) > 0.75
    assert len(result.rows) == 18
    with Image.open(result.picture) as picture:
        assert picture.width > 1000
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    page = result.report.read_text()
    assert page.count("<article") == 4 and "digits 7-9" in page
    with Image.open(result.explanation) as picture:
        assert picture.width == 960


def test_known_and_unknown_digits_are_kept_apart() -> None:
    data = load_data()
    parts = [data.train, data.calibration, data.test]
    assert all(int(part.tensors[1].max()) == 6 for part in parts)
    seen = [image.numpy().tobytes() for part in parts for image in part.tensors[0]]
    assert len(seen) > 1200
    train = {image.numpy().tobytes() for image in data.train.tensors[0]}
    assert not train & {image.numpy().tobytes() for image in data.calibration.tensors[0]}
    assert digit_network()(data.ood["photographs"]).shape == (300, 7)


def test_the_saved_guard_works_on_the_same_network(tmp_path: Path) -> None:
    result = run(tmp_path)
    data = load_data()
    guard = Guard.load(result.guard, train_network(data))
    assert _share(guard(data.test.tensors[0]).is_ood) == result.flagged_id["ensemble"]
