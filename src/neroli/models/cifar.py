"""The networks of 32x32 images that OOD papers measure on: a CIFAR ResNet-20 and DenseNet-100.

Layers are named as in the checkpoints that are in use, so that these can be loaded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def resnet20() -> nn.Module:
    """An untrained ResNet-20 for CIFAR-10: 64 features."""
    return ResNet20()


def densenet100() -> nn.Module:
    """An untrained DenseNet-100 for CIFAR-10: 342 features."""
    return DenseNet100()


def densenet100_cifar100() -> nn.Module:
    """An untrained DenseNet-100 for CIFAR-100: 342 features."""
    return DenseNet100(num_classes=100)


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
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class DenseNet100(nn.Module):
    """DenseNet-BC of depth 100, growth 12, reduction 0.5 (Huang et al. 2017)."""

    def __init__(self, num_classes: int = 10, growth: int = 12, depth: int = 16) -> None:
        super().__init__()
        grown = depth * growth
        self.conv1 = nn.Conv2d(3, 2 * growth, 3, 1, 1, bias=False)
        width = 2 * growth
        self.block1 = _DenseBlock(width, growth, depth)
        self.trans1 = _Transition(width + grown)
        width = (width + grown) // 2
        self.block2 = _DenseBlock(width, growth, depth)
        self.trans2 = _Transition(width + grown)
        width = (width + grown) // 2
        self.block3 = _DenseBlock(width, growth, depth)
        self.bn1 = nn.BatchNorm2d(width + grown)
        self.fc = nn.Linear(width + grown, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trans1(self.block1(self.conv1(x)))
        x = self.block3(self.trans2(self.block2(x)))
        logits: Tensor = self.fc(F.relu(self.bn1(x)).mean(dim=(2, 3)))
        return logits


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
        out: Tensor = self.layer(x)
        return out


class _Transition(nn.Module):
    """Halves the channels, the height and the width."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, inputs // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)
