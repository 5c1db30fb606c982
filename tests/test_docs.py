"""The documentation: its links lead somewhere, its first examples run."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from neroli import Activations, LinearHead
from neroli.benchmark.suite import Suite, builtin_names
from neroli.detectors import catalogue, create
from networks import colour_tensors, trained_colour_network

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_are_python(page: Path) -> None:
    for block in code_blocks(page):
        compile(block, page.name, "exec")


def test_the_five_lines_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaders = [
        DataLoader(TensorDataset(*colour_tensors(count, count)), batch_size=32)
        for count in (120, 90)
    ]
    scope = {
        "model": trained_colour_network(),
        "train_loader": loaders[0],
        "held_out_loader": loaders[1],
        "images": colour_tensors(9, 1)[0],
    }
    exec(code_blocks(ROOT / "README.md")[0], scope)
    assert len(scope["verdicts"]) == 9  # type: ignore[arg-type]
    assert (tmp_path / "guard" / "manifest.json").exists()


def test_the_detector_of_the_guide_works(training: Activations, head: LinearHead) -> None:
    scope = {"__name__": "guide"}
    exec(code_blocks(ROOT / "docs" / "writing-a-detector.md")[0], scope)
    detector = create("nearest_mean").fit(training, head)
    assert training.labels is not None
    means = [training.features[training.labels == c].mean(0) for c in range(head.num_classes)]
    expected = torch.cdist(training.features, torch.stack(means)).amin(dim=1)
    torch.testing.assert_close(detector.score(training), expected)


def test_the_table_of_detectors_is_that_of_the_command() -> None:
    page = (ROOT / "docs" / "detectors.md").read_text()
    assert catalogue.markdown() in page
    for name in catalogue.own_names():
        assert all(h["meaning"] for h in catalogue.facts(name)["hyperparameters"]), name


def test_the_suite_of_the_guide_is_one_and_the_built_in_ones_are_all_named() -> None:
    page = (ROOT / "docs" / "benchmarking.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    suite = Suite.model_validate(tomllib.loads(block))
    assert [row.title for row in suite.detector] == ["LINe, published for ImageNet"]
    deit = ("kvasir-v2-deit-s", "gastrovision-deit-s")  # in the row of those they vary
    assert all(f"`{name}`" in page for name in builtin_names() if name not in deit)
