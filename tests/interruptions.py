"""Programs that are killed at one of their steps on the file system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_STEPS = ("replace", "rename", "link", "unlink", "rmdir")


class Killed(BaseException):
    """Goes through whatever a program does about errors."""


@contextmanager
def killed_at(number: int) -> Iterator[list[str]]:
    """Let the file system refuse all from that step on, counted from 1; gives the steps so far.

    As a kill does, this leaves on disk what is there: also what a program would tidy up.
    """
    steps: list[str] = []

    def stopping(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def stopped(*arguments: Any, **more: Any) -> Any:
            steps.append(name)
            if len(steps) >= number:
                raise Killed(name)
            return step(*arguments, **more)

        return stopped

    with pytest.MonkeyPatch.context() as patched:
        for name in _STEPS:
            patched.setattr(os, name, stopping(name, getattr(os, name)))
        yield steps
