"""The Open Inference Protocol, as its specification words it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neroli.serve.engine import version_of
from neroli.serve.inference_protocol import InputTensor, _values
from neroli.serve.settings import Limits, Settings
from neroli.serve.uploads import Refused
from serving import Client, colour_guard, colour_pictures, encoded, serving, verdicts_of


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    settings = Settings(name="colours", limits=Limits(images=3))
    with serving(tmp_path_factory.mktemp("server"), settings) as client:
        yield client


def of_files(pictures: list[Image.Image], **more: Any) -> dict[str, Any]:
    data = [base64.b64encode(encoded(picture)).decode() for picture in pictures]
    tensor = {"name": "images", "shape": [len(data)], "datatype": "BYTES", "data": data}
    return {"inputs": [tensor | more]}


def of_pixels(pictures: list[Image.Image], *, flat: bool) -> dict[str, Any]:
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    data = pixels.ravel().tolist() if flat else pixels.tolist()
    tensor = {"name": "images", "shape": list(pixels.shape), "datatype": "UINT8", "data": data}
    return {"inputs": [tensor]}


def nested(depth: int) -> list[Any]:
    """A number within so many lists."""
    data: list[Any] = [0]
    for _ in range(depth - 1):
        data = [data]
    return data


@pytest.mark.parametrize("kind", ["files", "flat pixels", "nested pixels"])
def test_inference_gives_what_the_guard_says(client: Client, kind: str) -> None:
    pictures = colour_pictures(3)
    body = of_files(pictures) if kind == "files" else of_pixels(pictures, flat="flat" in kind)
    told = client.post("/v2/models/colours/infer", json=body | {"id": "mine"}).json()
    assert (told["model_name"], told["id"]) == ("colours", "mine")
    assert told["model_version"] == version_of(colour_guard())
    outputs = {output["name"]: output for output in told["outputs"]}
    kinds = {name: output["datatype"] for name, output in outputs.items()}
    assert kinds == {
        "score": "FP64",
        "p_value": "FP64",
        "is_ood": "BOOL",
        "predicted_class": "INT64",
    }
    for name, values in verdicts_of(pictures).items():
        assert outputs[name]["shape"] == [3]
        np.testing.assert_allclose(outputs[name]["data"], values, rtol=1e-5)
    assert all(type(value) is bool for value in outputs["is_ood"]["data"])
    assert all(type(value) is int for value in outputs["predicted_class"]["data"])


def test_only_outputs_that_are_asked_for_are_given(client: Client) -> None:
    version = version_of(colour_guard())
    told = client.post(
        f"/v2/models/colours/versions/{version}/infer",
        json=of_files(colour_pictures(1)) | {"outputs": [{"name": "p_value"}]},
    ).json()
    assert [output["name"] for output in told["outputs"]] == ["p_value"]


def test_the_model_is_described(client: Client) -> None:
    assert client.get("/v2").json()["name"] == "neroli"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    told = client.get("/v2/models/colours").json()
    assert told["versions"] == [version_of(colour_guard())]
    assert told["inputs"] == [{"name": "images", "datatype": "BYTES", "shape": [-1]}]
    assert client.get("/v2/models/colours/ready").json() == {"name": "colours", "ready": True}


@pytest.mark.parametrize("path", ["", "/ready", "/versions/1", "/versions/1/ready"])
def test_another_model_or_version_is_not_found(client: Client, path: str) -> None:
    name = "colours" if "versions" in path else "other"
    answer = client.get(f"/v2/models/{name}{path}")
    assert answer.status_code == 404 and isinstance(answer.json()["error"], str)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({}, 400, "inputs"),
        ({"inputs": []}, 400, "inputs"),
        (of_files(colour_pictures(1), name="other"), 400, "inputs.0.name"),
        (of_files(colour_pictures(1), datatype="FP32"), 400, "inputs.0.datatype"),
        (of_files(colour_pictures(2), shape=[3]), 400, "2 images were sent with the shape [3]"),
        (of_files(colour_pictures(1), data=[1]), 400, "base64"),
        (of_files(colour_pictures(1), data=["#"]), 422, "Image 0 is not base64"),
        (of_files(colour_pictures(4)), 413, "may hold 3 images"),
        (of_files([]), 400, "0 images"),
        (of_pixels(colour_pictures(4), flat=True), 413, "may hold 3 images"),
        (of_files(colour_pictures(1), datatype="UINT8", shape=[1, 8, 8, 3]), 400, "1 values"),
        (of_files(colour_pictures(1), datatype="UINT8", shape=[1, 8, 8]), 400, "[N, height"),
        (
            of_files([], datatype="UINT8", shape=[1, 1, 1, 3], data=[0, 256, 0]),
            400,
            "from 0 to 255",
        ),
        (of_files(colour_pictures(1)) | {"outputs": [{"name": "x"}]}, 400, "no output 'x'"),
        (of_files(colour_pictures(1)) | {"outputs": [{"name": "score"}] * 2}, 400, "than once"),
        (of_files(colour_pictures(1)) | {"outputs": [{"name": "score"}] * 5}, 400, "outputs"),
        (of_files([], shape=[1], data=nested(180)), 400, "base64 text"),
        (of_files([], datatype="UINT8", shape=[1, 1, 1, 3], data=nested(180)), 400, "otherwise"),
        (of_files([], datatype="UINT8", shape=[1, 1, 2, 3], data=[[[[0] * 3]]]), 400, "otherwise"),
        (
            of_files([], datatype="UINT8", shape=[1, 1, 1, 3], data=[0, [0], 0]),
            400,
            "whole numbers",
        ),
        (of_files([], datatype="UINT8", shape=[1, 2, 2, 3], data=[0] * 99), 400, "99 values were"),
        (of_files([], shape=[10**4000], data=["x"]), 400, "inputs.0.shape"),
        (of_files([], data=[[]] * 250_000), 413, "more than 250,000 lists"),
    ],
)
def test_errors_are_worded_as_the_protocol_says(
    client: Client, body: dict[str, Any], status: int, reason: str
) -> None:
    answer = client.post("/v2/models/colours/infer", json=body)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"] and reason in answer.json()["error"]


def test_all_images_are_scored_or_none(client: Client) -> None:
    body = of_files(colour_pictures(2))
    body["inputs"][0]["data"][1] = base64.b64encode(b"broken").decode()
    before = client.get("/metrics").text
    answer = client.post("/v2/models/colours/infer", json=body)
    assert answer.status_code == 422 and "Image 1 of 2" in answer.json()["error"]
    counted = 'neroli_images_total{verdict="in_distribution"}'
    after = client.get("/metrics").text
    assert [line for line in after.splitlines() if line.startswith(counted)] == [
        line for line in before.splitlines() if line.startswith(counted)
    ]


def test_of_nested_data_no_more_is_looked_at_than_the_shape_has_room_for() -> None:
    class Looked(list[Any]):
        """A list that must not be gone through."""

        def __iter__(self) -> Iterator[Any]:
            raise AssertionError("it was gone through")

    tensor = InputTensor.model_construct(shape=[1, 1, 1, 3], data=[Looked([0] * 1000)])
    with pytest.raises(Refused, match="nested otherwise"):
        _values(tensor, "values")
    tensor = InputTensor.model_construct(shape=[1, 1, 1, 3], data=Looked([0] * 1000))
    with pytest.raises(Refused, match="1000 values were sent"):
        _values(tensor, "values")


def test_binary_tensors_are_refused_clearly(client: Client) -> None:
    answer = client.post(
        "/v2/models/colours/infer",
        content=b"{}\0\0",
        headers={"Inference-Header-Content-Length": "2"},
    )
    assert answer.status_code == 415 and "Binary tensors are not taken" in answer.json()["error"]
    other = client.post(
        "/v2/models/colours/infer", content=b"{}", headers={"Content-Type": "text/plain"}
    )
    assert other.status_code == 415
