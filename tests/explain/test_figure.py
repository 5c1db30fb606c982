"""Figures: 1,200 pixels wide, nothing beyond the edge, names shown as they are."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import explanations as given
from neroli import Guard
from neroli.explain.examples import Examples
from neroli.explain.figure import drawn
from networks import colour_tensors


def texts(figure: Figure) -> list[Any]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = list(figure.texts)
    for axes in figure.axes:
        found += axes.texts
        if axes.axison:
            found += [axes.xaxis.label, *axes.get_yticklabels(), *axes.get_xticklabels()]
            found += axes.get_legend().get_texts() if axes.get_legend() else []
    return [text for text in found if text.get_text() and text.get_visible()]


def many_neurons(count: int) -> Any:
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(count, generator=draw).tolist() for _ in range(2)]
    return given.neurons(values[0], values[1], [1.0 / count] * count, [True, False] * (count // 2))


LONG = "a very long name of a class, " * 20
CASES = {
    "plain": {},
    "not flagged": {"is_ood": False},
    "long names": {"name": LONG, "predicted_name": LONG, "compared_name": LONG},
    "formulas": {"name": "$x^2$ and \\frac{1}{2} $", "predicted_name": "$", "compared_name": "_"},
    "no characters": {"name": "a\x00b\udcff\n", "predicted_name": "\x1b[31mred"},
    "many neurons": {"neurons": many_neurons(1000)},
    "no shares": {"neurons": given.neurons([1.0], [0.0], None, [True])},
    "nothing": {"deviation": given.heatmap(torch.zeros(9, 9))},
    "gradients": {"heatmap": given.heatmap(torch.ones(9, 9), "there is no rule for its Foo" * 9)},
    "tall": {
        "picture": np.zeros((90, 20, 3), dtype=np.uint8),
        "deviation": given.heatmap(torch.ones(90, 20)),
    },
    "thumbnails": {
        "examples": Examples(
            [("aa", 1.0), ("bb", 2.0)],
            {0: ["cc"], 1: ["cc"]},
            {0: ["aa"], 1: []},
            {},
            {name: np.zeros((64, 64, 3), dtype=np.uint8) for name in ("aa", "bb")},
        )
    },
}


@pytest.mark.parametrize("case", CASES)
def test_all_text_is_inside_and_none_on_top_of_another(case: str) -> None:
    figure = drawn(given.explanation(**CASES[case]))
    assert figure.get_figwidth() * figure.dpi == 1200
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    height = figure.get_figheight() * figure.dpi
    for text, box in boxes:
        assert box.x0 >= -1 and box.x1 <= 1201 and box.y0 >= -1 and box.y1 <= height + 1, text
    for number, (text, box) in enumerate(boxes):
        for other, its in boxes[:number]:
            apart = box.x1 <= its.x0 or its.x1 <= box.x0 or box.y1 <= its.y0 or its.y1 <= box.y0
            assert apart, (text, other)


def test_it_says_what_is_known_and_what_is_not() -> None:
    def said(**changed: Any) -> str:
        return "\n".join(text.get_text() for text in texts(drawn(given.explanation(**changed))))

    text = said()
    assert "frame 12.png: out of distribution, predicted polyp (probability 0.81)" in text
    assert "score 2, threshold 1.5, p-value 0.012" in text
    assert "50% is missing" in text and "neuron 1 (silent)" in text and "--keep-examples" in text
    assert text.count("\n50%") == 2 and "of the difference" in text  # neurons 0 and 1; 2 and 3 none
    assert "there is no rule" in said(**CASES["gradients"])
    text = said(**CASES["thumbnails"])
    assert "examples of neuron 0" in text
    assert "examples of neuron 1" not in text and "--keep-examples" not in text


def test_a_real_one_is_saved_as_png_without_the_state_of_pyplot(guard: Guard) -> None:
    content = io.BytesIO()
    guard.explain(colour_tensors(1, 5)[0][0]).figure().savefig(content)
    with Image.open(content) as picture:
        assert picture.format == "PNG" and picture.width == 1200
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
