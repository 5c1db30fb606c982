"""Training: the steps of a plain loop, the best epoch kept, and the same result if interrupted."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from neroli.data.arrays import ArrayFile
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
from neroli.models import import_torchvision, load_classifier
from neroli.training import Recipe, Trained, checkpoints, train
from networks import COLOURS, colour_images, tiny_network, trained_colour_network

PLAIN = Recipe(
    epochs=4,
    validate_every=2,
    batch_size=8,
    learning_rate=3e-3,
    size=8,
    flip=0,
    jitter=0,
    invert=0,
    equalise=0,
)
MIXED = dataclasses.replace(PLAIN, flip=0.5, jitter=0.25, invert=0.3, equalise=0.3)
TESTS = Path(__file__).parent

OWN_MODELS = """
import torch
from torch import nn
from networks import tiny_network

SIZES = []

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
        )
    def forward(self, x):
        if self.training:
            SIZES.append(len(x))
        return self.layers(x)

def frozen():
    return Counting().requires_grad_(False)

class Failing(Counting):
    def __init__(self, in_training):
        super().__init__()
        self.in_training = in_training
    def forward(self, x):
        logits = super().forward(x)
        fails = self.training == self.in_training and len(SIZES) > 10  # of 8 batches an epoch
        return logits * float("nan") if fails else logits

def exploding():
    return Failing(True)

def blind():
    return Failing(False)

def without_parameters():
    return nn.Flatten()

kept = tiny_network(3)
"""


@pytest.fixture(autouse=True)
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(OWN_MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Pictures, Pictures]:
    """60 training and 30 validation pictures of three colours."""
    sides = []
    for side, count, seed in (("training", 60, 1), ("validation", 30, 2)):
        images, labels = colour_images(count, seed)
        np.savez(tmp_path / f"{side}.npz", images=images, labels=labels)
        sides.append(ArrayFile(tmp_path / f"{side}.npz"))
    return sides[0], sides[1]


def trained(
    sets: tuple[Pictures, Pictures],
    out: Path,
    recipe: Recipe = PLAIN,
    arch: str = "networks:colour_network",
    **more: Any,
) -> Trained:
    return train(arch, *sets, out, recipe, **({"class_names": COLOURS} | more))


def same(first: Path, second: Path) -> bool:
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def grey_inputs(pictures: Pictures) -> tuple[Tensor, Tensor]:
    """What a grey network takes, by Pillow and NumPy alone, and the labels."""
    rows = [np.asarray(pictures.reader.read(row)[1].convert("L")) for row in pictures.rows]
    images = torch.from_numpy(np.stack(rows)[:, None].astype(np.float32) / 255)
    return (images - 0.5) / 0.25, torch.tensor(pictures.labels)


# What is learned


def test_weights_are_those_of_a_plain_loop(sets: tuple[Pictures, Pictures], tmp_path: Path) -> None:
    import own_networks  # type: ignore[import-not-found]

    recipe = dataclasses.replace(PLAIN, epochs=7, mean=(0.5,), std=(0.25,), seed=5)
    network = own_networks.plain()
    save_file(network.state_dict(), tmp_path / "begin.safetensors")
    training = sets[0].subset(list(range(57)))  # seven batches of eight and one image more
    result = trained(
        (training, sets[1]),
        tmp_path / "w.safetensors",
        recipe,
        "own_networks:plain",
        weights=tmp_path / "begin.safetensors",
    )

    (images, labels), (held_out, truth) = map(grey_inputs, (training, sets[1]))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses, measured = [], {}
    for epoch in range(1, 8):
        order = torch.from_numpy(np.random.default_rng((5, epoch)).permutation(57))
        parts = [order[start : start + 8] for start in range(0, 48, 8)] + [order[48:]]
        total = 0.0
        for part in parts:
            optimiser.zero_grad()
            loss = F.cross_entropy(network(images[part]), labels[part])
            loss.backward()
            optimiser.step()
            total += loss.item() * len(part)
        losses.append(total / 57)
        if epoch in (2, 4, 6, 7):
            right = (network(held_out).argmax(1) == truth).double().mean().item()
            measured[epoch] = (right, {k: v.clone() for k, v in network.state_dict().items()})

    assert [epoch.loss for epoch in result.history] == pytest.approx(losses, rel=1e-4)
    accuracies = {e.epoch: e.validation_accuracy for e in result.history if e.validation_accuracy}
    assert accuracies == pytest.approx({epoch: right for epoch, (right, _) in measured.items()})
    best = max(measured, key=lambda epoch: (measured[epoch][0], -epoch))  # the first of the best
    assert result.epoch == best
    assert result.validation_accuracy == pytest.approx(measured[best][0])
    for name, tensor in load_file(result.weights).items():
        torch.testing.assert_close(tensor, measured[best][1][name], rtol=1e-3, atol=1e-5)


def test_the_classifier_of_the_file_has_the_stated_accuracy(
    sets: tuple[Pictures, Pictures], tmp_path: Path
) -> None:
    result = trained(sets, tmp_path / "w.safetensors", MIXED)
    classifier = load_classifier("networks:colour_network", result.weights)
    assert classifier.class_names == list(COLOURS) == result.class_names
    assert classifier.preprocessing == result.preprocessing == MIXED.preprocessing
    images = [sets[1].reader.read(row)[1] for row in sets[1].rows]
    predicted = classifier(images).logits.argmax(dim=1)
    accuracy = (predicted == torch.tensor(sets[1].labels)).double().mean().item()
    assert accuracy == result.validation_accuracy
    assert result.validation_images == 30
    assert [e.epoch for e in result.history if e.validation_accuracy is not None] == [2, 4]


def test_the_colours_are_learned(sets: tuple[Pictures, Pictures], tmp_path: Path) -> None:
    recipe = dataclasses.replace(MIXED, epochs=15, learning_rate=0.02, invert=0, jitter=0.1)
    result = trained(sets, tmp_path / "w.safetensors", recipe)
    assert result.validation_accuracy > 0.9
    assert result.history[-1].loss < 0.5 * result.history[0].loss


def test_all_parameters_are_learned_also_frozen_ones(
    sets: tuple[Pictures, Pictures], tmp_path: Path
) -> None:
    first = trained(
        sets,
        tmp_path / "a.safetensors",
        dataclasses.replace(PLAIN, epochs=1),
        "own_networks:frozen",
    )
    second = trained(
        sets,
        tmp_path / "b.safetensors",
        dataclasses.replace(PLAIN, epochs=3),
        "own_networks:frozen",
    )
    before, after = load_file(first.weights), load_file(second.weights)
    assert second.epoch > 1
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_a_network_of_the_users_own_is_left_evaluating_with_the_best_weights(
    sets: tuple[Pictures, Pictures], tmp_path: Path
) -> None:
    result = trained(sets, tmp_path / "w.safetensors", arch="own_networks:kept")
    import own_networks

    assert not any(module.training for module in own_networks.kept.modules())
    best = load_file(result.weights)
    assert all(torch.equal(best[n], v) for n, v in own_networks.kept.state_dict().items())


def test_networks_of_transformers_are_trained_too(
    sets: tuple[Pictures, Pictures], tmp_path: Path
) -> None:
    import_torchvision()
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "image_size": 8, "patch_size": 4}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
    configuration = transformers.ViTConfig(**sizes, **layers, num_labels=3)
    network = transformers.ViTForImageClassification(configuration)
    network.save_pretrained(tmp_path / "vit")
    spec = f"hf:{tmp_path / 'vit'}"
    result = trained(sets, tmp_path / "w.safetensors", dataclasses.replace(PLAIN, epochs=1), spec)
    classifier = load_classifier(spec, result.weights)
    assert classifier.class_names == list(COLOURS)
    learned = classifier.model.state_dict()["classifier.weight"]
    assert not torch.equal(learned, network.state_dict()["classifier.weight"])


# Determinism


def test_the_same_seed_gives_the_same_weights_with_any_number_of_workers(
    sets: tuple[Pictures, Pictures], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    first = trained(sets, tmp_path / "a.safetensors", MIXED)
    torch.manual_seed(2)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(2))
    for pictures in sets:
        pictures.workers = 1
    second = trained(sets, tmp_path / "b.safetensors", MIXED)
    assert torch.equal(torch.rand(3), expected)  # the user's own draws go on undisturbed
    assert same(first.weights, second.weights)
    other = trained(sets, tmp_path / "c.safetensors", dataclasses.replace(MIXED, seed=1))
    assert not same(first.weights, other.weights)


# Interrupted and finished


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_training_goes_on_with_the_same_result(
    sets: tuple[Pictures, Pictures], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    recipe = dataclasses.replace(MIXED, epochs=4, validate_every=1)
    whole = trained(sets, tmp_path / "whole.safetensors", recipe)

    def stop(sentence: str) -> None:
        if sentence.startswith(f"Epoch {after} "):
            raise Stop

    out = tmp_path / "w.safetensors"
    with pytest.raises(Stop):
        trained(sets, out, recipe, say=stop)
    assert not out.exists()
    said: list[str] = []
    result = trained(sets, out, recipe, say=said.append)
    assert said[0] == f"Going on after epoch {after} of 4."
    assert len(said) == 1 + 4 - after
    assert same(result.weights, whole.weights)
    assert result.history == whole.history
    assert sorted(tmp_path.glob("*.partial")) == []


def test_a_killed_training_goes_on_with_the_same_result(
    sets: tuple[Pictures, Pictures], tmp_path: Path
) -> None:
    script = f"""
import os, signal, torch
from neroli.training import checkpoints
from neroli.data.arrays import ArrayFile
from neroli.training import Recipe, train
torch.set_num_threads(1)
checkpoints.SECONDS = 0.0
kill = lambda text: text.startswith("Epoch 2 ") and os.kill(os.getpid(), signal.SIGKILL)
train("networks:colour_network", ArrayFile("training.npz"), ArrayFile("validation.npz"),
      "w.safetensors", {MIXED!r}, class_names={COLOURS!r}, say=kill)
"""
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join([str(TESTS), *sys.path])},
        check=False,
        capture_output=True,
    )
    assert process.returncode == -9, process.stderr.decode()
    said: list[str] = []
    result = trained(sets, tmp_path / "w.safetensors", MIXED, say=said.append)
    assert said[0] == "Going on after epoch 2 of 4."
    assert same(result.weights, trained(sets, tmp_path / "whole.safetensors", MIXED).weights)


@pytest.mark.parametrize("damage", ["cut", "emptied", "another training's"])
def test_a_checkpoint_that_is_of_no_use_is_not_used(
    sets: tuple[Pictures, Pictures], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    out = tmp_path / "w.safetensors"

    def stop(sentence: str) -> None:
        raise Stop

    with pytest.raises(Stop):
        trained(sets, out, say=stop)
    path = tmp_path / "w.safetensors.partial" / "checkpoint.safetensors"
    recipe = PLAIN
    if damage == "another training's":
        recipe = dataclasses.replace(PLAIN, learning_rate=1e-3)
    else:
        path.write_bytes(path.read_bytes()[: 5000 if damage == "cut" else 0])
    said: list[str] = []
    result = trained(sets, out, recipe, say=said.append)
    assert said[0].startswith("Epoch 2 ")
    assert same(result.weights, trained(sets, tmp_path / "b.safetensors", recipe).weights)


def test_a_finished_training_is_not_repeated_but_another_is(
    sets: tuple[Pictures, Pictures], tmp_path: Path
) -> None:
    out = tmp_path / "w.safetensors"
    first = trained(sets, out)
    before = out.stat().st_mtime_ns
    said: list[str] = []
    assert trained(sets, out, say=said.append) == first
    assert out.stat().st_mtime_ns == before
    assert len(said) == 1 and "already" in said[0]
    fewer = (sets[0].subset(list(range(50))), sets[1])
    for change in (
        lambda: trained(sets, out, dataclasses.replace(PLAIN, epochs=2)),
        lambda: trained(fewer, out, dataclasses.replace(PLAIN, epochs=2)),
        lambda: trained(sets, out, class_names=["a", "b", "c"]),
    ):
        change()
        assert out.stat().st_mtime_ns != before
        before = out.stat().st_mtime_ns


def test_only_one_process_trains_to_a_file(sets: tuple[Pictures, Pictures], tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    with (
        checkpoints.Checkpoints(out, "other"),
        pytest.raises(ArtefactError, match="Another process"),
    ):
        trained(sets, out)


# Images that cannot be used


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


# What is refused


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
