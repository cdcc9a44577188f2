"""What `pkg.mod:function` names, and how it is called."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any


class TargetError(Exception):
    """Nothing that could be measured; the message says what is wrong and what to do."""


class Target:
    """A function, or a transformers model, that is given the inputs of a request.

    A function without parameters is called once: where it returns a function or a model, it was a
    loader; else it is the request itself (takes_none). call: takes the inputs. model: the torch
    module whose parts are watched, or None. own_inputs: what it declares as its inputs: a mapping,
    or a function that makes one; None where it is given those of the request.
    """

    def __init__(self, found: Any, name: str, new_tokens: int) -> None:
        """Raises TargetError for what can neither be called nor generate."""
        self.name, self.kind, self.takes_none = name, "function", False
        declared = found
        found = _loaded(found)
        self.file = _source(declared) or _source(found)
        self.own_inputs = getattr(found, "inputs", None) or getattr(declared, "inputs", None)
        self.model = getattr(found, "model", None)
        if _is_model(found):
            self.kind, self.model = "model", found
            self.own_inputs = getattr(declared, "inputs", None) if declared is not found else None
            self.call = _generating(found, new_tokens)
            return
        if not callable(found):
            raise TargetError(f"{name} is {type(found).__name__}: give a function or a model")
        self.takes_none = _takes_nothing(found)
        if not (self.takes_none or _takes_one(found)):
            raise TargetError(
                f"{name}{inspect.signature(found)} is called with one argument, the inputs of a "
                "request: let others have defaults"
            )
        self.call = (lambda inputs: found()) if self.takes_none else found
        if not hasattr(self.model, "named_modules"):
            self.model = None

    def inputs(self, given: Any) -> Any:
        """What it is called with: what it declares, or what the request has."""
        if self.takes_none:
            return {}
        declared = given if self.own_inputs is None else self.own_inputs
        made = declared() if callable(declared) else declared
        if made is None:
            raise TargetError(
                f"{self.name} takes the inputs of a request, and there are none: name a --model, "
                f"or let it declare its own ({self.name.rpartition(':')[2]}.inputs = ...)"
            )
        if not isinstance(made, Mapping):
            raise TargetError(f"{self.name}: its inputs are {type(made).__name__}, not a mapping")
        return dict(made)

    def makes_inputs(self, given: Any) -> bool:
        """Whether they are made anew for each request, on the clock."""
        return not self.takes_none and callable(
            given if self.own_inputs is None else self.own_inputs
        )

    def digest(self) -> str:
        """SHA-256 of the file that it is from; "" where there is none."""
        try:
            with open(self.file, "rb") as file:
                return hashlib.sha256(file.read()).hexdigest()
        except OSError:
            return ""


def find(reference: str, folder: str) -> Any:
    """What `pkg.mod:function` or `path/to/file.py:function` names. folder: where the user is, which
    is searched last. Raises TargetError where there is no such thing, and whatever importing it
    raises."""
    where, _, path = reference.rpartition(":")
    if not where or not path:
        raise TargetError(f"{reference!r} is not MODULE:FUNCTION, as my_fork.run:generate")
    if folder not in sys.path:
        sys.path.append(folder)
    if where.endswith(".py"):
        found = _from_file(os.path.join(folder, where))
    else:
        try:
            found = importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name != where and not where.startswith(f"{error.name}."):
                raise
            raise TargetError(f"there is no module {error.name} for {sys.executable}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            known = [each for each in vars(found) if not each.startswith("_")]
            raise TargetError(f"{where} has no {name}; it has {', '.join(known[:20])}")
        found = getattr(found, name)
    return found


def _from_file(path: str) -> Any:
    if not os.path.isfile(path):
        raise TargetError(f"{path}: no such file")
    name = "tpprof_callable_" + hashlib.sha256(path.encode()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    beside = os.path.dirname(path)
    if beside not in sys.path:
        sys.path.append(beside)  # it may import what lies beside it
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _loaded(found: Any) -> Any:
    """What a loader returns, where it is one: a function without parameters is called once."""
    made = found() if _takes_nothing(found) else None
    return made if _is_model(made) or callable(made) else found


def _takes_nothing(found: Any) -> bool:
    if _is_model(found) or not callable(found):
        return False
    try:
        return not inspect.signature(found).parameters
    except (TypeError, ValueError):
        return False


def _takes_one(found: Any) -> bool:
    """Whether it can be called with one argument, as far as it says."""
    try:
        inspect.signature(found).bind(None)
    except TypeError:
        return False
    except ValueError:  # it does not say
        return True
    return True


def _is_model(found: Any) -> bool:
    """Whether it is a transformers model: a module that generates."""
    return hasattr(found, "named_modules") and callable(getattr(found, "generate", None))


def _generating(model: Any, new_tokens: int) -> Any:
    """Greedy, and exactly so many tokens, whatever the model's own settings say."""

    def generate(inputs: Any) -> Any:
        return model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
        )

    return generate


def _source(found: Any) -> str:
    try:
        return inspect.getsourcefile(found) or ""
    except TypeError:
        module = sys.modules.get(type(found).__module__)
        return getattr(module, "__file__", None) or ""
