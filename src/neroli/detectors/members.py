"""Detectors inside of another: given by name or as themselves, saved and forgotten with it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from neroli.detectors.base import Detector
from neroli.errors import ArtefactError, InvalidInput

_MEMBER = "member."
_HEAD = ("head.weight", "head.bias")


def made(given: Any, whole: str) -> Detector:
    """A detector, by itself, by name, or as ``described``.

    Args:
        given: one of these.
        whole: what it is to be a member of, for the error.

    Raises:
        InvalidInput: if it is none of these, or cannot be created.
    """
    from neroli.detectors import create  # which registers the modules that import this one

    if isinstance(given, Detector):
        return given
    if isinstance(given, str):
        return create(given)
    if isinstance(given, dict) and given.keys() <= {"name", "hyperparameters"}:
        name, settings = given.get("name"), given.get("hyperparameters", {})
        if isinstance(name, str) and isinstance(settings, dict):
            return create(name, **settings)
    raise InvalidInput(
        f"{whole} must be a detector, its name, or {{'name': ..., 'hyperparameters': {{...}}}}, "
        f"got {given!r}."
    )


def described(member: Detector) -> dict[str, Any]:
    """A member as hyper-parameters of saved guards have it."""
    return {"name": member.name, "hyperparameters": member.hyperparameters()}


def forgotten(members: Sequence[Detector]) -> tuple[Detector, ...]:
    """Copies that know nothing; members that others hold are left as they are."""
    copies = tuple(copy.copy(member) for member in members)
    for member in copies:
        member.forget()
    return copies


def state_of(members: Sequence[Detector]) -> dict[str, Tensor]:
    """What members learned, as ``Detector.state`` of the whole has it, without the head."""
    return {
        f"{_MEMBER}{number}.{name}": value
        for number, member in enumerate(members)
        for name, value in member.state().items()
        if name not in _HEAD
    }


def without_members(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What of a state the whole learned itself."""
    return {name: value for name, value in state.items() if not name.startswith(_MEMBER)}


def load_members(members: Sequence[Detector], state: dict[str, Tensor]) -> None:
    """Give members back what they learned, out of the state of the whole.

    Raises:
        ArtefactError: if a tensor is missing, or there is one too many.
    """
    for number, member in enumerate(members):
        prefix = f"{_MEMBER}{number}."
        learned = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        member.load_state({key: state[key] for key in _HEAD} | learned)
    numbers = [int(name.split(".")[1]) for name in state if name.startswith(_MEMBER)]
    if max(numbers, default=0) >= len(members):
        raise ArtefactError(
            f"The saved state is of more than the {len(members)} members of this detector: fit it "
            "again."
        )
