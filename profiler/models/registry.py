"""The registry of architectures: one file each in `architectures/`, and those of the entry-point
group `tpprof.models`. No torch here."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import warnings
from importlib.metadata import entry_points

from ...methods.contract.containment import contained
from ...methods.contract.errors import InputError
from ...methods.contract.plugins import announce
from . import architectures
from .architecture import Architecture
from .shapes import Shape

_registry: dict[str, Architecture] = {}


def register_architecture(kind: type[Architecture]) -> type[Architecture]:
    """Class decorator that makes an architecture known by its name. Raises InputError for a name or
    a model type that is taken."""
    made = kind()
    for other in _registry.values():
        if _home(type(other)) == _home(kind):
            continue
        shared = {made.name, made.model_type} & {other.name, other.model_type}
        if shared:
            raise InputError(
                f"architecture {made.name!r}: {', '.join(sorted(shared))} is already known, of "
                f"{type(other).__module__}"
            )
    _registry[made.name] = made
    announce(made.name)
    return kind


def _home(kind: type[Architecture]) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def known_architectures() -> dict[str, Architecture]:
    """All architectures, by name."""
    _discover()
    return dict(_registry)


def known_shapes() -> dict[str, Shape]:
    """All models that are known by name."""
    return {shape.name: shape for each in known_architectures().values() for shape in each.shapes()}


def by_model_type() -> dict[str, Architecture]:
    """All architectures, by what the config.json of a checkpoint calls them."""
    return {each.model_type: each for each in known_architectures().values()}


@functools.cache
def _discover() -> None:
    for module in pkgutil.iter_modules(architectures.__path__):
        importlib.import_module(f"{architectures.__name__}.{module.name}")
    for plugin in entry_points(group="tpprof.models"):
        try:
            with contained():
                plugin.load()
        except Exception as error:
            warnings.warn(f"plug-in {plugin.name!r} could not be loaded: {error}", stacklevel=2)
