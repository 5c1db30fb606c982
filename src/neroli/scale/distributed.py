"""Workers: several processes of ``torch.distributed`` that do one fit, such as torchrun starts."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from neroli.accumulators import merge, packed, unpack
from neroli.activations import BATCH_SIZE, Activations, ActivationSource
from neroli.errors import EngineError, FailedElsewhere, NeroliError, NotEnoughImages
from neroli.fitting import take_in
from neroli.scale.partition import Shard
from neroli.statistics import Count, Statistic

PATIENCE = timedelta(hours=12)
"""How long processes wait for the slowest; torchrun ends all at once when one dies."""

_PIECE = 2**28
"""Bytes that are sent at a time."""

_GRACE = 2.0
"""Seconds that processes wait before they end because of another's failure: torchrun stops all when
the first ends, and the one that failed is to say why."""


@dataclass(eq=False)
class Workers:
    """The processes of a run, as one of them sees them. What they do together they do in step.

    Args:
        group: of ``torch.distributed``, gloo or nccl; None is the default group.
    """

    group: dist.ProcessGroup | None = None
    _known: BaseException | None = field(default=None, init=False)
    """What failed here and need not be told the others any more."""

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        """Those that torchrun started, this one among them; all fail together.

        Raises:
            EngineError: if torchrun did not start this process, or torch cannot do it.
        """
        if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys():
            raise EngineError(
                "--engine torchrun is for processes that torchrun starts: torchrun "
                "--nproc-per-node 2 -m neroli ..."
            )
        if not (dist.is_available() and dist.is_gloo_available()):
            raise EngineError("This build of torch has no torch.distributed over gloo.")
        # Activations and statistics lie in main memory, so that nothing needs nccl.
        dist.init_process_group("gloo", timeout=PATIENCE)
        try:
            workers = cls()
            with workers.agreed():
                yield workers
        except FailedElsewhere:
            time.sleep(_GRACE)
            raise
        finally:
            dist.destroy_process_group()

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return dist.get_rank(self.group)

    @property
    def shard(self) -> Shard:
        """The part of the images that is this process's."""
        return Shard(self.rank + 1, dist.get_world_size(self.group))

    def device(self, name: str) -> str:
        """The device of this process: with ``cuda`` one of its own."""
        return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" else name

    def exchange(self, content: bytes = b"", *, failed: bool = False) -> Iterator[bytes]:
        """What every process gives, one after the other in the order of their ranks.

        Raises:
            FailedElsewhere: at the first that has failed; if it is this one, there is no more.
            EngineError: if a process has ended, or keeps the others waiting for too long.
        """
        for number in range(self.shard.of):
            own = number == self.rank
            given = content if own else b""
            size, broken = self._sent(torch.tensor([len(given), failed]), number).tolist()
            if broken:
                if own:
                    return
                raise FailedElsewhere(f"Process {number} of this run failed and says why.")
            sent = torch.frombuffer(bytearray(given or bytes(size or 1)), dtype=torch.uint8)[:size]
            for start in range(0, size, _PIECE):
                sent[start : start + _PIECE] = self._sent(sent[start : start + _PIECE], number)
            yield sent.numpy().tobytes()

    def wait(self) -> None:
        """Go on when all processes have come as far; raises as ``exchange``."""
        for _ in self.exchange():
            pass

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Fail on all processes where any fails, and go on when all have come to the end.

        Raises:
            FailedElsewhere, EngineError: as ``exchange``.
        """
        try:
            yield
        except NeroliError as error:
            self.tell(error)
            raise
        self.wait()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Do what takes long; one that fails in it ends at once, which makes torchrun end all."""
        try:
            yield
        except NeroliError as error:
            self._known = error
            raise

    def tell(self, error: NeroliError) -> None:
        """Make the others fail too where they wait next, unless they know.

        Raises:
            FailedElsewhere, EngineError: as ``exchange``.
        """
        if error is not self._known and not isinstance(error, FailedElsewhere | _Lost):
            self._known = error
            for _ in self.exchange(failed=True):
                pass

    def _sent(self, tensor: Tensor, number: int) -> Tensor:
        """A tensor as the process of that rank has it."""
        placed = tensor.cuda() if dist.get_backend(self.group) == "nccl" else tensor.clone()
        source = number if self.group is None else dist.get_global_rank(self.group, number)
        try:
            dist.broadcast(placed, source, self.group)
        except RuntimeError as error:
            place = r"^\[\S+\] |\[\S+\]:\d+.*"  # of source code and machine
            reason = re.sub(place, "", str(error).splitlines()[0]).strip()
            raise _Lost(
                f"Another process of this run has ended or does not answer ({reason}): what is "
                "done is kept, the same command goes on."
            ) from error
        return placed.cpu()


class _Lost(EngineError):
    """A process does not answer any more, so that the others can be told nothing."""


class DistributedActivations:
    """Activations of which every process has a part; statistics are of all of them.

    All processes fit in step, and learn the same: what each has gathered is merged in the order of
    their ranks.

    Args:
        part: the images of this process, which may be none.
        workers: the processes; those of the default group if left out.
    """

    def __init__(self, part: ActivationSource, workers: Workers | None = None) -> None:
        self.part = part
        self.workers = workers or Workers()
        self.num_features, self.num_classes = part.num_features, part.num_classes
        self.has_labels = part.has_labels

    def __len__(self) -> int:
        """How many images this process has."""
        return len(self.part)

    def batches(self, batch_size: int = BATCH_SIZE) -> Iterator[Activations]:
        """The images of this process, in order."""
        return self.part.batches(batch_size)

    def gathered(self, statistics: Sequence[Statistic[Any]]) -> list[Any]:
        """The results of several statistics over the images of all processes, in order.

        Raises:
            NotEnoughImages, InvalidInput: as ``neroli.fitting.gather``; on the others then
                FailedElsewhere.
            EngineError: if another process has ended.
        """
        together = [*statistics, Count()]
        try:
            take_in(together, self.part)
        except NeroliError as error:
            self.workers.tell(error)
            raise
        first = next(iter(self.part.batches(1)), None)
        device = None if first is None else first.features.device
        for number, content in enumerate(self.workers.exchange(save(packed(together)))):
            take_over = merge if number else unpack
            take_over(load(content), together, device)
        if together[-1].finalize() == 0:
            raise NotEnoughImages("There are no images to learn from: give at least one.")
        return [statistic.finalize() for statistic in statistics]
