"""Whether the code that runs is transformers' own.

The engine walks the layers itself and never calls the `forward` of a module above them. What a fork
does there would be left out without a word, and its time given out as vanilla's: it is refused.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .errors import ModelError


def require_own_code(name: str, module: nn.Module) -> None:
    """Raises ModelError where a module above the layers of the decoder or of the vision tower does
    not run transformers' own `forward`, or has a hook around it."""
    lists = [p for p, part in module.named_modules() if isinstance(part, nn.ModuleList)]
    above = {path[:end] for path in lists for end in (0, *_dots(path))}
    for path in sorted(above):
        part = module.get_submodule(path)
        if fault := _fault(part):
            raise ModelError(
                f"{name}: {path or 'the model'} ({type(part).__name__}) {fault}, which the engine "
                "would leave out: it calls the layers itself. Measure it as it is (--callable "
                "MODULE:FUNCTION, tpprof.measure), write what it does as a method "
                "(CONTRIBUTING.md), or restore transformers' own"
            )


def _dots(path: str) -> list[int]:
    """Where the names of a path end that stand above its last one."""
    return [end for end, sign in enumerate(path) if sign == "."]


def _fault(part: Any) -> str:
    """What of a module is not transformers' own; "" if all is."""
    if "forward" in vars(part):
        return f"has a forward of its own, from {_origin(vars(part)['forward'])}"
    if not _is_own(type(part)):
        return f"is a class of {type(part).__module__}"
    if not _is_own(type(part).forward):
        return f"has its forward replaced by one of {_origin(type(part).forward)}"
    if part._forward_hooks or part._forward_pre_hooks:
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        return f"has a hook around its forward, from {_origin(hooks[0])}"
    return ""


def _is_own(thing: Any) -> bool:
    return _origin(thing).partition(".")[0] in ("transformers", "torch")


def _origin(thing: Any) -> str:
    """The module that a class or function comes from."""
    return str(getattr(thing, "__module__", None) or type(thing).__module__)
