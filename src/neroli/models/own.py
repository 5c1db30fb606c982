"""Models of the user's own: a function in a module of theirs."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from neroli.data.preprocessing import Preprocessing
from neroli.errors import ModelError, first_line
from neroli.models import timm
from neroli.models.loaded import LoadedModel
from neroli.models.torchvision import import_torchvision, lacks_operators


def load(module: str, factory: str) -> LoadedModel:
    """What a function without arguments returns, or a variable holds.

    The model may state its ``preprocessing`` and ``class_names`` as attributes.

    Raises:
        ModelError: if there is no such module or function, or it fails or gives something else.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    except (Exception, SystemExit) as error:  # of the package that holds it
        raise ModelError(_raised(module, factory, error)) from error
    if found is None:
        raise ModelError(
            f"There is no module {module!r} for the model {module}:{factory}: run in the folder "
            "that holds it, or install it."
        )
    try:
        make = getattr(_imported(module), factory, None)
        if make is None:
            raise ModelError(f"The module {module!r} has no {factory!r}.")
        model = make() if callable(make) and not isinstance(make, nn.Module) else make
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code
        raise ModelError(_raised(module, factory, error)) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{module}:{factory} gave a {type(model).__name__}; it must return a torch.nn.Module."
        )
    return as_loaded(model)


def as_loaded(model: nn.Module) -> LoadedModel:
    """A model with what it states itself."""
    stated = getattr(model, "preprocessing", None)
    if not isinstance(stated, Preprocessing):
        stated = timm.preprocessing(model)
    names = getattr(model, "class_names", None)
    names = [str(name) for name in names] if isinstance(names, list | tuple) else None
    return LoadedModel(model, stated, names)


def _raised(module: str, factory: str, error: BaseException) -> str:
    return f"The model {module}:{factory} raised {type(error).__name__}: {first_line(error)}"


def _imported(module: str) -> ModuleType:
    """The user's module, also where it imports a torchvision that needs help."""
    try:
        return importlib.import_module(module)
    except RuntimeError as error:
        if not lacks_operators(error):
            raise
        import_torchvision()
        return importlib.import_module(module)
