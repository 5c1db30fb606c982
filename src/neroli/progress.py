"""How far a long job is, shown on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    total: int | None, start: int, shown: bool | None
) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, and what to call with the position reached."""
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda position: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("images", total=total, completed=start)
        yield lambda position: bar.update(task, completed=position)
