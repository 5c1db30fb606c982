"""Measures of faithful explanations: deletion curves, rank correlation, and their intervals.

Maps are ``[N, H, W]``; every measure gives one value an image, and intervals are over images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from neroli.metrics import Interval

BLOCK = 4
"""Side of the blocks that are deleted: single pixels would make noise of their own."""
FRACTIONS = (0.0, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)
"""Shares of the blocks that are deleted, one after the other."""
RESAMPLES = 2000


def interval(values: Tensor, over: Tensor | None = None) -> Interval:
    """Mean of ``values`` ``[N]``, over that of ``over`` if given, with its 95 % interval.

    Percentile bootstrap over images; the pairs of both are kept together.
    """
    rows = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    above = values.double().numpy()
    below = np.ones_like(above) if over is None else over.double().numpy()
    means = above[rows].mean(axis=1) / below[rows].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(above.mean() / below.mean()), float(low), float(high))


def shown(found: Interval, digits: int = 2) -> str:
    """A cell of a table."""
    return f"{found.value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def table(first: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join([first, *columns])} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {' | '.join([name, *cells])} |" for name, cells in rows.items()]
    return "\n".join(lines)


def gradient_times_input(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Of the logits of ``classes``, summed over colours, ``[N, H, W]``."""
    leaf = images.clone().requires_grad_()
    total = model(leaf).gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    return (gradient * images).sum(1)


def blurred(images: Tensor) -> Tensor:
    """Images without detail: a Gaussian of standard deviation 4 keeps their colours."""
    values = gaussian_filter(images.numpy(), (0, 0, 4, 4), mode="nearest")
    return torch.from_numpy(values)


def mean_colour(images: Tensor) -> Tensor:
    """Every image as its mean colour."""
    return images.mean((2, 3), keepdim=True).expand_as(images)


def centre_first(like: Tensor) -> Tensor:
    """A map ``[N, H, W]`` that is highest in the middle, where photographs show their object."""
    axis = torch.linspace(-1, 1, like.shape[-1])
    return -(axis[:, None] ** 2 + axis**2).expand(len(like), -1, -1)


def block_ranks(maps: Tensor) -> Tensor:
    """When each block's turn comes, ``[N, 1, H / 4, W / 4]``: 0 for the most relevant one."""
    blocks = F.avg_pool2d(maps[:, None], BLOCK)
    order = blocks.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).view_as(blocks)


def deletion_curve(
    run: Callable[[Tensor], Tensor], images: Tensor, instead: Tensor, maps: Tensor
) -> Tensor:
    """What ``run`` says as ever more of the most relevant blocks are replaced, ``[steps, N]``."""
    ranks = block_ranks(maps)
    steps = []
    for fraction in FRACTIONS:
        deleted = ranks < round(fraction * ranks[0].numel())
        mask = deleted.float().repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)
        steps.append(run(torch.where(mask > 0, instead, images)))
    return torch.stack(steps)


def neuron_curve(
    run: Callable[[Tensor], Tensor], features: Tensor, usual: Tensor, order: Tensor, steps: Tensor
) -> Tensor:
    """What ``run`` says as ever more neurons become usual, ``[steps, N]``; ``order [N, D]``
    sorts them by its values, highest first, and ``steps`` are numbers of neurons."""
    ranks = order.argsort(dim=1, descending=True).argsort(dim=1)
    return torch.stack([run(torch.where(ranks < step, usual, features)) for step in steps])


def area(curve: Tensor, at: Tensor | None = None) -> Tensor:
    """Area under curves ``[steps, N]``, ``[N]``, over shares deleted from 0 to 1."""
    return torch.trapezoid(curve, torch.tensor(FRACTIONS) if at is None else at, dim=0)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's, of the pixels of each pair of maps, ``[N]``."""
    ranks = [
        torch.from_numpy(rankdata(maps.flatten(1).numpy(), axis=1)) for maps in (first, second)
    ]
    centred = [r - r.mean(dim=1, keepdim=True) for r in ranks]
    return F.cosine_similarity(centred[0], centred[1], dim=1)


def share_inside(maps: Tensor, inside: Tensor) -> Tensor:
    """Share of maps without negative values that lies in a mask ``[N, H, W]``, ``[N]``.

    The share of the area where a map is empty.
    """
    total = maps.sum((1, 2))
    area_share = inside.float().mean((1, 2))
    return torch.where(total > 0, (maps * inside).sum((1, 2)) / total.clamp(min=1e-30), area_share)


def reinitialise(module: nn.Module, images: Tensor, model: nn.Module) -> None:
    """Give a part of a model random parameters, and its batch norms the statistics they then have.

    Args:
        module: that part.
        images: ``[N, ...]`` to estimate the statistics of all batch norms on.
        model: all of it.
    """
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # of one batch, the statistics of it
        norm.train()
    with torch.no_grad():
        model(images)
    model.eval()
