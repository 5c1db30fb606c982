"""The networks whose trained weights the tests on real data load, and small ones for the rest."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padding = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + shortcut)


class ResNet20(nn.Module):
    """CIFAR ResNet-20 with parameter-free shortcuts (He et al. 2016)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._layer(16, 16, 1)
        self.layer2 = self._layer(16, 32, 2)
        self.layer3 = self._layer(32, 64, 2)
        self.linear = nn.Linear(64, num_classes)

    def _layer(self, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        blocks = [_BasicBlock(inputs, outputs, stride)]
        return nn.Sequential(*blocks, *(_BasicBlock(outputs, outputs, 1) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def untrained_resnet20() -> ResNet20:
    """A ResNet-20 with random weights whose logits differ from image to image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ResNet20()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.3)
    return network.eval()


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return torch.cat([x, out], dim=1)


class _DenseBlock(nn.Module):
    def __init__(self, inputs: int, growth: int, depth: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(_Bottleneck(inputs + i * growth, growth) for i in range(depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class _Transition(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNet100(nn.Module):
    """DenseNet-BC of depth 100, growth 12, reduction 0.5 (Huang et al. 2017)."""

    def __init__(self, num_classes: int = 10, growth: int = 12, depth: int = 16) -> None:
        super().__init__()
        width = 2 * growth
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        for stage in (1, 2, 3):
            setattr(self, f"block{stage}", _DenseBlock(width, growth, depth))
            width += depth * growth
            if stage < 3:
                setattr(self, f"trans{stage}", _Transition(width, width // 2))
                width //= 2
        self.bn1 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trans1(self.block1(self.conv1(x)))
        x = self.block3(self.trans2(self.block2(x)))
        return self.fc(F.relu(self.bn1(x)).mean(dim=(2, 3)))


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
