"""What is said when the images or weights of a suite are absent or damaged."""

import re
from pathlib import Path

import pytest
from PIL import Image

from layouts import write_cifar_downloads, write_classes, write_images
from neroli.benchmark.images import benchmark_images, weights_file
from neroli.benchmark.suite import builtin_names, own_suite, read_suite
from neroli.errors import InvalidInput, MissingData, NotEnoughImages


@pytest.mark.parametrize("name", [name for name in builtin_names() if name != "digits"])
def test_without_any_data_everything_is_listed_at_once(tmp_path: Path, name: str) -> None:
    suite = read_suite(name)
    with pytest.raises(MissingData, match=f"The suite '{name}' lacks files; say where") as error:
        benchmark_images(suite)
    for ood in suite.ood:
        assert f"OOD {ood.name or 'sets'}" in str(error.value)
    for role, _ in suite.id.roles():
        assert f"ID {role}" in str(error.value)
    assert ("weights: 'DIR/models/" in str(error.value)) == bool(suite.model.weights)
    with pytest.raises(MissingData) as error:
        benchmark_images(suite, tmp_path)
    assert "DIR" not in str(error.value) and "--data" not in str(error.value)
    assert all("Download: " in line for line in str(error.value).splitlines()[1:])


@pytest.mark.parametrize(
    ("name", "place", "address"),
    [
        ("kvasir-v2", "kvasir-dataset-v2", "https://datasets.simula.no/kvasir/"),
        ("gastrovision", "Gastrovision", "https://osf.io/84e7f/"),
    ],
)
def test_what_to_download_and_where_to_put_it_is_said(
    tmp_path: Path, name: str, place: str, address: str
) -> None:
    with pytest.raises(MissingData) as error:
        benchmark_images(read_suite(name), tmp_path)
    said = str(error.value).splitlines()
    assert len(said) == 2
    assert said[1].startswith(f"- ID all, OOD disease: '{tmp_path}/{place}' (")
    assert f"{name} is one folder of images for each of" in said[1]
    assert address in said[1]


def test_only_what_is_missing_is_listed(tmp_path: Path) -> None:
    write_cifar_downloads(tmp_path)
    (tmp_path / "mnist.npz").unlink()
    (tmp_path / "models" / "cifar10_resnet20.safetensors").unlink()
    suite = read_suite("cifar10-resnet20")
    with pytest.raises(MissingData) as error:
        benchmark_images(suite, tmp_path)
    said = str(error.value).splitlines()
    assert [re.match(r"- ([^:]+): '([^']+)'", line).groups() for line in said[1:]] == [  # type: ignore[union-attr]
        ("OOD mnist", f"{tmp_path}/mnist.npz"),
        ("weights", f"{tmp_path}/models/cifar10_resnet20.safetensors"),
    ]
    assert "cifar10 has no part 'mnist' there, it has 'cifar100', " in said[1]
    with pytest.raises(MissingData, match="or '.*resnet20-12fca82f.th'. Download: .*akamaster"):
        weights_file(suite, tmp_path)


def test_what_is_there_but_damaged_is_listed_with_the_reason(tmp_path: Path) -> None:
    write_cifar_downloads(tmp_path)
    (tmp_path / "cifar-100-binary" / "test.bin").write_bytes(b"x" * 100)
    for folder in ("medical-mnist/Hand", "medical-mnist/CXR"):
        for file in (tmp_path / folder).iterdir():
            file.unlink()
    with pytest.raises(MissingData) as error:
        benchmark_images(read_suite("cifar10-resnet20"), tmp_path)
    said = str(error.value)
    assert "is damaged: its 100 bytes are no whole number of records" in said
    assert "There is no image file in" in said
    assert said.count("is damaged") == 1  # the set is needed twice, the reason is told once


def test_data_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="The data folder '.*gone' is not there"):
        benchmark_images(read_suite("kvasir-v2"), tmp_path / "gone")
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 32, 32
        frame = av.VideoFrame.from_image(Image.new("RGB", (32, 32)))
        container.mux([*stream.encode(frame), *stream.encode(None)])
    write_classes(tmp_path / "id", ("a", "b"), 1)
    with pytest.raises(InvalidInput, match="film.mp4' has no single images"):
        benchmark_images(own_suite("x:y", None, tmp_path / "id", [("far", tmp_path / "film.mp4")]))
    write_images(tmp_path / "new")
    with pytest.raises(NotEnoughImages, match="cannot be split"):
        benchmark_images(own_suite("x:y", None, tmp_path / "id", [("far", tmp_path / "new")]))


def test_sets_that_are_found_under_one_name_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "near" / "cats")
    write_images(tmp_path / "far" / "cats")
    for split in ("train", "test"):
        write_classes(tmp_path / "id" / split, ("a", "b"))
    with pytest.raises(InvalidInput, match="has several OOD sets called 'cats'"):
        benchmark_images(read_suite("openmibood"), tmp_path)
