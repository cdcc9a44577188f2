"""The registry: methods found in this folder and in the entry-point group `tpprof.methods`."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
import re
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points

from .containment import contained
from .errors import InputError, text_of
from .method import Method

NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_registry: dict[str, type[Method]] = {}


class UnknownMethodError(InputError):
    """No method has this name."""


class MethodError(InputError):
    """A class that cannot be registered as a method."""


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Class decorator that makes a method known as `name`.

    Raises MethodError for what is no method, and for a name that is taken or that no spec string
    can hold.
    """
    if isinstance(name, type):
        raise MethodError(f'{name.__name__} is registered without a name: write @register("name")')
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise MethodError(
            f"{name!r} is no name of a method; known: a letter, then letters, digits, '-', '_', '.'"
        )

    def add(method: type[Method]) -> type[Method]:
        if not (isinstance(method, type) and issubclass(method, Method)):
            raise MethodError(f"{name!r} is no method: give a class that is derived from Method")
        taken = _registry.get(name)
        if taken is not None and _home(taken) != _home(method):
            raise MethodError(
                f"method {name!r} is already registered by {taken.__module__}: choose another name"
            )
        method.name = name
        _registry[name] = method
        return method

    return add


def _home(method: type[Method]) -> tuple[str, str]:
    return method.__module__, method.__qualname__


def names() -> list[str]:
    """All registered names, `vanilla` first."""
    _discover()
    return sorted(_registry, key=lambda name: (name != "vanilla", name))


def classes() -> dict[str, type[Method]]:
    """What is registered by now."""
    return dict(_registry)


def method_class(name: str) -> type[Method]:
    """The class registered as `name`; an unknown one raises with the nearest and all known."""
    _discover()
    if name not in _registry:
        near = difflib.get_close_matches(name, _registry, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UnknownMethodError(
            f"unknown method {name!r}{hint}; known: {', '.join(names())}; one of your own is "
            "registered by @register in the file that --plugin names"
        )
    return _registry[name]


@functools.cache
def _discover() -> None:
    package = importlib.import_module("..", __package__)
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            importlib.import_module(f"{package.__name__}.{module.name}")
    for plugin in entry_points(group="tpprof.methods"):
        try:
            with contained():
                plugin.load()
        except Exception as error:
            warnings.warn(
                f"plug-in {plugin.name!r} could not be loaded: {text_of(error)}", stacklevel=2
            )
