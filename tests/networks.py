"""Small networks for the tests, and the pictures that they tell apart."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from neroli.models.cifar import ResNet20


def untrained_resnet20() -> ResNet20:
    """A ResNet-20 with random weights whose logits differ from image to image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ResNet20()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.3)
    return network.eval()


def tiny_network(num_classes: int = 4, seed: int = 0, channels: int = 3) -> nn.Sequential:
    """A random convolutional classifier with 16 features, for 8x8 images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, num_classes),
        )


COLOURS = ("blue", "green", "red")


def colour_images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 8x8 pictures ``[N, 8, 8, 3]`` uint8 that are mostly blue, green or red, and which."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = draw.integers(0, 140, (count, 8, 8, 3))
    images[np.arange(count), :, :, 2 - labels] += 100
    return images.astype(np.uint8), labels


def colour_tensors(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The same as the network takes them, and int64 labels."""
    images, labels = colour_images(count, seed)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (tensor - 0.5) / 0.25, torch.from_numpy(labels)


def colour_loader(count: int, seed: int, *, labels: bool = True) -> DataLoader[tuple[Tensor, ...]]:
    """A loader of them in batches of 32, with labels or without."""
    images, classes = colour_tensors(count, seed)
    dataset = TensorDataset(images, classes) if labels else TensorDataset(images)
    return DataLoader(dataset, batch_size=32)


def colour_network() -> nn.Sequential:
    """The tiny network for three classes, untrained: a factory for the command line."""
    return tiny_network(num_classes=3)


@functools.cache
def _colour_weights() -> dict[str, Tensor]:
    network = colour_network()
    images, labels = colour_tensors(300, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(60):
            optimiser.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimiser.step()
    return network.state_dict()


def trained_colour_network() -> nn.Sequential:
    """The tiny network, trained to tell blue, green and red."""
    network = colour_network()
    network.load_state_dict(_colour_weights())
    return network.eval()
