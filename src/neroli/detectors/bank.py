"""Search in a bank of training features, exact, in chunks of bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

from neroli.errors import NotEnoughImages

CELLS = 2**24
"""How many products of images and bank rows are held at a time: 64 MB in float32."""


def greatest(
    queries: Tensor, bank: Tensor, k: int, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k greatest of ``queries @ bank.T + offset`` in each row, in falling order, and where.

    Args:
        queries: ``[N, D]``.
        bank: ``[M, D]`` with M >= k.
        k: how many.
        offset: ``[M]``, added to every row.

    Returns:
        values and rows of the bank, both ``[N, k]``.
    """
    chunk = max(k, CELLS // max(len(queries), 1))
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, len(bank), chunk):
        part = slice(start, start + chunk)
        products = queries @ bank[part].T
        if offset is not None:
            products += offset[part]
        values, rows = products.topk(min(k, products.shape[1]), dim=1)
        rows += start
        if best is not None:
            values, rows = torch.cat([best[0], values], 1), torch.cat([best[1], rows], 1)
            values, order = values.topk(k, dim=1)
            rows = rows.gather(1, order)
        best = values, rows
    assert best is not None, "a bank has at least k rows"
    return best


def check_size(detector: str, k: int, bank: Tensor) -> None:
    """Raise NotEnoughImages if the bank has less than k rows."""
    if k > len(bank):
        raise NotEnoughImages(
            f"{detector} looks for {k} neighbours among only {len(bank)} training images: give "
            f"more, raise bank_size, or set k to at most {len(bank)}."
        )
