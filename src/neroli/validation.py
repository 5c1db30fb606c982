"""Types of hyper-parameters and settings, checked where they are given."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

import pydantic

from neroli.errors import InvalidInput


def check_types(settings: Any) -> None:
    """Check the arguments of a dataclass object against their types, and convert what can be.

    Raises:
        InvalidInput: naming the one that does not suit, and why.
    """
    types = get_type_hints(type(settings))
    for field in fields(settings):
        if not field.init:
            continue
        value = getattr(settings, field.name)
        try:
            converted = pydantic.TypeAdapter(types[field.name]).validate_python(value)
        except pydantic.ValidationError as error:
            raise InvalidInput(
                f"{field.name}={value!r} does not suit {type(settings).__name__}: "
                f"{error.errors()[0]['msg']}."
            ) from None
        object.__setattr__(settings, field.name, converted)
