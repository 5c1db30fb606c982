"""A server whose network is in an ONNX file: verdicts and neurons, and no heat maps."""

from pathlib import Path

import pytest

from conftest import COLOUR_PREPROCESSING
from neroli import Classifier, Guard, export_onnx, load_classifier
from neroli.detectors import NERO
from neroli.serve.sessions import FORM_TOKEN
from networks import COLOURS, colour_loader, trained_colour_network
from pages import Checked
from reviewing import unusual_picture
from serving import serving

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the [onnx] extra is not installed")


def test_images_are_judged_and_explained_without_heat_maps(tmp_path: Path) -> None:
    network = Classifier(
        trained_colour_network(), preprocessing=COLOUR_PREPROCESSING, class_names=COLOURS
    )
    export_onnx(network, tmp_path / "m.onnx", next(iter(colour_loader(8, 1)))[0])
    of_network, guard = (
        Guard(classifier, NERO()).fit(colour_loader(150, 1))
        for classifier in (network, load_classifier(f"onnx:{tmp_path / 'm.onnx'}"))
    )
    for each in (of_network, guard):
        each.calibrate(colour_loader(120, 2, labels=False))
    with serving(tmp_path, guard=guard) as client:
        told = client.post("/v1/explain", files={"image": unusual_picture()}).json()
        parts = {"token": (None, FORM_TOKEN), "image": ("a.png", unusual_picture(), "image/png")}
        said = client.post("/", files=parts).text
    page = Checked(said)
    assert (
        told["maps"]["picture"] and told["maps"]["prediction"] is told["maps"]["deviation"] is None
    )
    assert told["explanation"]["heatmap"] is None
    top = told["explanation"]["neurons"]["top"]
    assert len(top) == 10 and top[0]["evidence"] != 0
    assert "out of distribution" in page.text
    assert '<div class="stack enlarged-pictures"><img' in said  # not 8 pixels wide
    assert "without heat maps, which need the network itself" in page.text
    assert not [each for each in page.all("input") if each.get("name") == "map"]
