"""Fixtures of the review pages: a guard with small pictures, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from neroli import Guard
from neroli.serve.settings import Settings
from serving import Client, guard_with_examples, serving


@pytest.fixture(scope="session")
def examples_guard() -> Guard:
    return guard_with_examples()


@pytest.fixture
def server(examples_guard: Guard, tmp_path: Path) -> Iterator[Client]:
    """A server that keeps pictures."""
    settings = Settings(keep_thumbnails=True, keep_images=True)
    with serving(tmp_path, settings, guard=examples_guard) as client:
        yield client


@pytest.fixture
def browser(server: Client) -> Iterator[httpx.Client]:
    """What asks it, and keeps its cookies."""
    with httpx.Client(base_url=server.address, timeout=60) as client:
        yield client
