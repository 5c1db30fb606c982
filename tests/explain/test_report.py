"""Reports: one page that holds all it shows and runs nothing, whatever images are called."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import explanations as given
from neroli import Guard
from neroli.data.sources import Failure
from neroli.errors import ArtefactError, InvalidInput
from neroli.explain import Explanation, explain, write_report
from neroli.explain.examples import Examples
from networks import colour_tensors
from pages import Checked, assert_can_be_heard, assert_holds_all

EVIL = '<script>alert("1")</script>'


def page(guard: Guard, path: Path, explanations: list[Explanation], **more: Any) -> Checked:
    write_report(path, explanations, guard.manifest(), **more)
    return Checked(path.read_text(encoding="utf-8"))


WITH_PICTURES = Examples(
    [("aa" * 16, 1.0)],
    {0: ["cc" * 16]},
    {0: ["aa" * 16]},
    {1: ["dd" * 16]},
    {"aa" * 16: np.zeros((64, 64, 3), dtype=np.uint8)},
)
CASES = {
    "plain": {},
    "not flagged": {"is_ood": False},
    "thumbnails": {"examples": WITH_PICTURES},
    "no shares": {"neurons": given.neurons([1.0, 0.0], [0.0, 0.0], None, [True, False])},
    "names": {"name": EVIL, "predicted_name": EVIL, "compared_name": EVIL + "'\"&"},
    "no characters": {"name": "a\x00b\udcff\n", "predicted_name": "\x1b[31mred\x00"},
    "gradients": {"heatmap": given.heatmap(torch.ones(9, 9), f"no rule for {EVIL}")},
}


@pytest.mark.parametrize("case", CASES)
def test_a_page_holds_all_it_shows_and_runs_nothing(
    guard: Guard, tmp_path: Path, case: str
) -> None:
    found = page(guard, tmp_path / "r.html", [given.explanation(**CASES[case])] * 2)
    assert_holds_all(found)


def test_it_can_be_heard_and_found_through(guard: Guard, tmp_path: Path) -> None:
    examples = [given.explanation(examples=WITH_PICTURES), given.explanation()]
    found = page(guard, tmp_path / "r.html", examples)
    assert_can_be_heard(found)


def test_it_says_what_the_explanation_says(guard: Guard, tmp_path: Path) -> None:
    differing = given.neurons(
        [4.0, 0.0, 1.0, 0.5], [1.0, 1.0, 1.0, 0.5], [1.2, 0.4, 0.0, -0.1], [True, False] * 2
    )
    explanation = given.explanation(neurons=differing, examples=WITH_PICTURES)
    found = page(guard, tmp_path / "r.html", [explanation])
    assert explanation.summary in found.text
    for part in (
        "4",
        "1 ± 0.5",
        "+1.2",
        "75%",
        "Of the difference",
        "silent: its usual",
        "+0.5: a rest",
        "dd" * 6,
    ):
        assert part in found.text
    assert "What the network was given" in found.text
    assert "cc" * 6 not in found.text  # the kept images of the neuron are shown, not named
    assert "How to read this, and what it does not prove" in found.text
    manifest = guard.manifest()
    for part in (manifest.classifier.weights_hash, manifest.created, "with 90% confidence"):
        assert part in found.text
    assert found.all("nav") == []  # of one image there are no contents
    assert len(found.all("img")) == 3 + 2


def test_names_are_text(guard: Guard, tmp_path: Path) -> None:
    found = page(
        guard,
        tmp_path / "r.html",
        [given.explanation(**CASES["names"]), given.explanation()],
        failures=[Failure(EVIL, f"is no picture {EVIL}")],
    )
    assert found.text.count(EVIL) >= 8  # as people see it
    assert EVIL not in (tmp_path / "r.html").read_text()


def test_a_name_cannot_turn_the_direction_of_writing(guard: Guard, tmp_path: Path) -> None:
    found = page(guard, tmp_path / "r.html", [given.explanation(name="scan\u202egnp.exe \u05d0")])
    assert "scan\\u202egnp.exe \u05d0" in found.text and "\u202e" not in found.text


def test_unreadable_images_and_those_left_out_are_said(guard: Guard, tmp_path: Path) -> None:
    failures: list[Failure] = []

    def told() -> Iterator[Explanation]:
        yield given.explanation()
        failures.append(Failure("broken.png", "is empty (0 bytes)"))  # found on the way

    write_report(tmp_path / "r.html", told(), guard.manifest(), failures=failures, left_out=7)
    text = " ".join(Checked((tmp_path / "r.html").read_text()).text.split())
    assert "broken.png" in text and "is empty (0 bytes)" in text
    assert "1 could not be read" in text and "the 1 most unusual of 8" in text
    none = page(guard, tmp_path / "n.html", [], failures=failures)
    assert "0 images explained" in none.text and "broken.png" in none.text


def test_many_images_are_in_order_and_not_all_in_memory(guard: Guard, tmp_path: Path) -> None:
    alive: set[int] = set()
    most = 0

    class Counted(Explanation):
        def __del__(self) -> None:
            alive.discard(id(self))

    def told() -> Iterator[Explanation]:
        nonlocal most
        for number in range(40):
            one = Counted(**(vars(given.explanation(name=f"image {number}"))))
            alive.add(id(one))
            most = max(most, len(alive))
            yield one

    write_report(tmp_path / "r.html", told(), guard.manifest())
    assert most <= 2
    source = (tmp_path / "r.html").read_text()
    found = Checked(source)
    assert len(found.all("article")) == 40
    assert re.findall(r'<h2 id="title-\d+"><bdi>image (\d+)', source) == list(map(str, range(40)))


def test_real_explanations_make_a_page(guard: Guard, tmp_path: Path) -> None:
    images = colour_tensors(4, 5)[0]
    found = page(guard, tmp_path / "r.html", explain(guard, images))
    assert len(found.all("svg")) == 40 and len(found.all("img")) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_a_page_is_written_whole_or_not_at_all(guard: Guard, tmp_path: Path) -> None:
    def failing() -> Iterator[Explanation]:
        yield given.explanation()
        raise InvalidInput("half way")

    (tmp_path / "r.html").write_text("before")
    with pytest.raises(InvalidInput, match="half way"):
        write_report(tmp_path / "r.html", failing(), guard.manifest())
    assert (tmp_path / "r.html").read_text() == "before"
    with pytest.raises(InvalidInput, match=r"\.html file"):
        write_report(tmp_path / "r.pdf", [], guard.manifest())
    (tmp_path / "d.html").mkdir()
    with pytest.raises(ArtefactError, match="is a folder"):
        write_report(tmp_path / "d.html", [], guard.manifest())
