"""What cannot be trained, or trained on: images left out, and errors that say what is wrong."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from fine_tuning import MIXED, PLAIN, trained
from neroli.data.folders import ImageFiles
from neroli.data.pictures import Pictures
from neroli.errors import (
    ArtefactError,
    InvalidInput,
    LabelsRequired,
    ModelError,
    NeroliWarning,
    NotEnoughImages,
)
from networks import colour_images, tiny_network, trained_colour_network


def files(folder: Path, count: int, seed: int) -> ImageFiles:
    folder.mkdir()
    paths, (images, labels) = [], colour_images(count, seed)
    for number, image in enumerate(images):
        paths.append(folder / f"{number:02}.png")
        Image.fromarray(image).save(paths[-1])
    return ImageFiles(paths, labels.tolist())


def test_unreadable_images_are_counted_and_listed_and_batches_stay_whole(tmp_path: Path) -> None:
    training, validation = files(tmp_path / "a", 20, 1), files(tmp_path / "b", 9, 2)
    for name in ("a/03.png", "a/04.png", "a/11.png", "b/05.png"):
        (tmp_path / name).write_bytes(b"no image")
    recipe = dataclasses.replace(PLAIN, epochs=1)
    result = trained(
        (training, validation), tmp_path / "w.safetensors", recipe, "own_networks:Counting"
    )
    import own_networks

    assert own_networks.SIZES == [8, 9]  # 17 readable: the last is not left alone
    assert result.unreadable == 4
    assert sorted(failure.name for failure in result.failures) == [
        "03.png",
        "04.png",
        "05.png",
        "11.png",
    ]
    assert result.validation_images == 8
    assert (
        trained(
            (training, validation), tmp_path / "w.safetensors", recipe, "own_networks:Counting"
        ).unreadable
        == 4
    )


def test_pictures_of_any_mode_are_trained_on(tmp_path: Path) -> None:
    training, validation = files(tmp_path / "a", 12, 1), files(tmp_path / "b", 6, 2)
    colour = Image.open(tmp_path / "a" / "00.png")
    colour.convert("CMYK").save(tmp_path / "cmyk.jpg")
    (tmp_path / "cmyk.jpg").replace(tmp_path / "a" / "00.png")
    sixteen = np.full((8, 8), 40_000, np.uint16)
    Image.fromarray(sixteen).save(tmp_path / "a" / "01.png")
    Image.new("P", (300, 2)).save(tmp_path / "a" / "02.png")
    result = trained((training, validation), tmp_path / "w.safetensors", MIXED)
    assert result.unreadable == 0
    grey = dataclasses.replace(MIXED, mean=(0.5,), std=(0.25,))
    sets = (training, validation)
    result = trained(sets, tmp_path / "g.safetensors", grey, "own_networks:plain")
    assert result.unreadable == 0


def test_a_class_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    training, validation = files(tmp_path / "a", 9, 1), files(tmp_path / "b", 9, 2)
    for number in (1, 4, 7):
        (tmp_path / "a" / f"0{number}.png").write_bytes(b"")
    with pytest.raises(NotEnoughImages, match="'green' has no training image that can be read"):
        trained((training, validation), tmp_path / "w.safetensors")


def test_validation_needs_a_readable_image(tmp_path: Path) -> None:
    training, validation = files(tmp_path / "a", 9, 1), files(tmp_path / "b", 3, 2)
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(NotEnoughImages, match="None of the validation images"):
        trained((training, validation), tmp_path / "w.safetensors")


def test_validation_images_that_are_trained_on_are_warned_of(
    sets: tuple[Pictures, Pictures], tmp_path: Path
) -> None:
    copies = sets[0].subset([4, 5])
    with pytest.warns(NeroliWarning, match="2 of the validation images are copies"):
        trained((sets[0], copies), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"validate_every": 0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"learning_rate": 1.5},
        {"learning_rate": float("nan")},
        {"size": 0},
        {"size": (8, 100_000)},
        {"mean": (0.5, 0.5)},
        {"std": (0.5, 0.5, 0.0)},
        {"flip": 1.5},
        {"jitter": 0.6},
        {"invert": -0.1},
        {"equalise": float("nan")},
        {"seed": -1},
        {"epochs": "many"},
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(changes))):
        dataclasses.replace(PLAIN, **changes)


@pytest.mark.parametrize(
    ("arch", "what"),
    [("exploding", "epoch 2: the loss is nan"), ("blind", "epoch 2: logits of validation images")],
)
def test_divergence_is_said_with_epoch_and_remedy(
    sets: tuple[Pictures, Pictures], tmp_path: Path, arch: str, what: str
) -> None:
    with pytest.raises(ModelError, match=f"diverged in {what}.*learning rate below 0.003"):
        trained(sets, tmp_path / "w.safetensors", arch=f"own_networks:{arch}")
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"class_names": ["red"]}, InvalidInput, "two classes or more"),
        ({"class_names": ["a", "b", "a"]}, InvalidInput, "'a' is there twice"),
        ({"class_names": ["a", "b", "\udcff"]}, InvalidInput, "not UTF-8"),
        ({"class_names": ["a", "b"]}, InvalidInput, "class index 2, and there are 2 classes"),
        ({"class_names": list("abcd")}, NotEnoughImages, "class 'd' has no training image"),
        ({"arch": "neroli.demo:digit_network"}, InvalidInput, "cannot take images of shape"),
        ({"arch": "networks:tiny_network"}, ModelError, "gives 4 logits and there are 3 classes"),
        ({"arch": "own_networks:without_parameters"}, ModelError, "no parameters"),
        ({"arch": "export:program.pt2"}, ModelError, "exported program, which is frozen"),
        ({"arch": "timm:resnet1"}, ModelError, "timm has no model"),
        ({"device": "abacus"}, ModelError, "device 'abacus'"),
        ({"weights": "gone.safetensors"}, ModelError, "no weights file"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    sets: tuple[Pictures, Pictures],
    tmp_path: Path,
    more: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        trained(sets, tmp_path / "w.safetensors", **more)
    assert list(tmp_path.glob("*.safetensors*")) == []


def test_images_need_class_indices(sets: tuple[Pictures, Pictures], tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    with pytest.raises(LabelsRequired, match="validation images have no class indices.*subfolder"):
        trained((sets[0], sets[1].unlabelled()), out)
    named = Pictures(sets[0].reader, sets[0].names, ["red"] * 60)
    with pytest.raises(LabelsRequired, match="training images have no class indices.*labelled"):
        trained((named, sets[1]), out)


def test_weights_of_another_network_are_refused(
    sets: tuple[Pictures, Pictures], tmp_path: Path
) -> None:
    save_file(tiny_network(3, channels=1).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="not of this Sequential"):
        trained(sets, tmp_path / "w.safetensors", weights=tmp_path / "other.safetensors")


def test_other_files_are_not_replaced(sets: tuple[Pictures, Pictures], tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    save_file(trained_colour_network().state_dict(), out)
    with pytest.raises(ArtefactError, match="neroli did not train"):
        trained(sets, out)
    with pytest.raises(InvalidInput, match="would replace the weights to begin with"):
        trained(sets, out, weights=out)
    with pytest.raises(InvalidInput, match=r"\.safetensors file, got .*w\.pt"):
        trained(sets, tmp_path / "w.pt")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ArtefactError, match="is a folder"):
        trained(sets, tmp_path / "folder.safetensors")
    (tmp_path / "b.safetensors.partial").mkdir()
    (tmp_path / "b.safetensors.partial" / "mine.txt").touch()
    with pytest.raises(ArtefactError, match="holds other files"):
        trained(sets, tmp_path / "b.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(ArtefactError, match="Cannot write"):
        trained(sets, tmp_path / "file" / "w.safetensors")
