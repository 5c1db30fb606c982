"""Training: the steps of a plain loop, the best epoch kept, the same for the same seed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from fine_tuning import MIXED, PLAIN, same, trained
from neroli.data.pictures import Pictures
from neroli.models import import_torchvision, load_classifier
from networks import COLOURS


def grey_inputs(pictures: Pictures) -> tuple[Tensor, Tensor]:
    """What a grey network takes, by Pillow and NumPy alone, and the labels."""
    rows = [np.asarray(pictures.reader.read(row)[1].convert("L")) for row in pictures.rows]
    images = torch.from_numpy(np.stack(rows)[:, None].astype(np.float32) / 255)
    return (images - 0.5) / 0.25, torch.tensor(pictures.labels)


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
