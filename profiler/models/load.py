"""Loading a model: a named shape with random weights, an embedded or local checkpoint, or a hub
id."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...methods.contract.errors import first_line
from ...methods.engine.attention import interface_of
from ...methods.engine.ranks import Ranks
from ...reports.sanitize import quoted
from .architecture import Architecture
from .backends import require_backend, require_kernel
from .checkpoint.embedded import EMBEDDED, folder_of
from .checkpoint.files import (
    BUFFERS,
    require_object,
    require_same_weights,
    require_sections,
    require_sizes,
    weight_files,
    wrong_size,
)
from .checkpoint.rotary import require_stateless_file
from .configs import from_config
from .device_memory import no_room, require_weights_fit
from .device_pixels import device_processor, require_torchvision
from .errors import ModelError
from .model import Model
from .processors import (
    companions,
    default_processor,
    image_processor,
    transformers_class,
    video_description,
)
from .registry import by_model_type, known_shapes
from .shapes import Shape
from .weights.drawn import drawn
from .weights.pipeline import Pipeline
from .weights.spread import Sharding

WEIGHTS = (".safetensors", ".bin")
POINTER = b"version https://git-lfs"


def load(
    name: str | Shape,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    backend: str = "sdpa",
    seed: int = 0,
    ranks: Ranks | None = None,
    pipeline: Sequence[torch.device] = (),
) -> Model:
    """A model ready to run.

    name: a shape (random weights by `seed`, made on `device` in `dtype`), an embedded checkpoint
    (`seer`), a checkpoint folder or a hub id. device: CUDA if there is one. dtype: bfloat16 on
    CUDA, float32 elsewhere. backend: the attention kernel, one of `backends.BACKENDS`. ranks: the
    processes over which it is spread, of which this is one; torch.distributed has begun. pipeline:
    the devices over which its decoder layers lie, one after another, in the place of `device`.
    Raises ModelError with one clear line.
    """
    target = pipeline[0] if pipeline else default_device(device)
    precision = _dtype(dtype, target)
    require_backend(backend, target, precision)
    shape = known_shapes().get(name) if isinstance(name, str) else name
    if shape is not None:
        return _from_shape(shape, target, precision, backend, seed, ranks, tuple(pipeline))
    return _from_checkpoint(str(name), target, precision, backend, ranks, tuple(pipeline))


def default_name(
    device: str | torch.device | None = None, dtype: str | None = None
) -> tuple[str, str]:
    """The model for a run that names none, and why it is this one."""
    target = default_device(device)
    if target.type != "cuda":
        return "tiny", "the default without a GPU"
    needed = _dtype(dtype, target).itemsize * known_shapes()["llava-next-7b"].parameters + 6 * 2**30
    free = torch.cuda.mem_get_info(target)[0]
    if free >= needed:
        return "llava-next-7b", "the model of the paper's Table 7, the default on a GPU"
    return "tiny", (
        f"the GPU has {free / 2**30:.0f} GiB free, llava-next-7b wants {needed / 2**30:.0f} GiB"
    )


def default_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, or CUDA if there is one; raises ModelError."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"unknown device {device!r}; known: cpu, cuda, cuda:0, ...") from error
    if target.type not in ("cpu", "cuda"):
        raise ModelError(f"device {device} is not supported; known: cpu, cuda, cuda:0, ...")
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device}: this torch sees no CUDA device; use --device cpu")
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        known = ", ".join(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        raise ModelError(f"device {device} does not exist here; known: cpu, {known}")
    return target


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if isinstance(dtype, torch.dtype) or dtype not in known:
        raise ModelError(f"unknown dtype {dtype!r}; known: {', '.join(known)}")
    return known[dtype]


def _from_shape(
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    backend: str,
    seed: int,
    ranks: Ranks | None,
    devices: tuple[torch.device, ...],
) -> Model:
    pipeline = Pipeline(shape, devices) if devices else None
    needed = _require_room(shape.name, shape, device, dtype, ranks, pipeline)
    require_kernel(backend, device, dtype, shape)
    architecture = shape.architecture
    try:
        module = drawn(
            transformers_class(architecture.class_name),
            architecture.config(shape),
            device=device,
            dtype=dtype,
            attention=interface_of(backend),
            seed=seed,
            spread=None if ranks is None else Sharding(shape, ranks),
            pipeline=pipeline,
        )
    except RuntimeError as error:  # torch has no class of its own for a CPU without memory
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        reason = f"{device} has not that much free"
        raise no_room(shape.name, needed, device, dtype, reason) from error
    processor = default_processor(shape)
    return architecture.adapter()(
        module, shape, backend=backend, image_processor=processor, ranks=ranks
    )


def _require_room(
    name: str,
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    ranks: Ranks | None,
    pipeline: Pipeline | None,
) -> int:
    """How many weights are to lie on the device, or on all of a pipeline. Raises ModelError where
    they are more than one of them has."""
    if pipeline is None:
        needed = _parameters_here(shape, device, ranks)
        require_weights_fit(name, needed, device, dtype)
        return needed
    for part, where in zip(pipeline.parts, pipeline.devices, strict=True):
        require_weights_fit(name, part.parameters, where, dtype)
    return shape.parameters


def _parameters_here(shape: Shape, device: torch.device, ranks: Ranks | None) -> int:
    """How many weights lie on the device at least: of a model that is spread this rank's share,
    with tower and projector whole; on a CPU those of all ranks, whose memory is one."""
    if ranks is None:
        return shape.parameters
    own = shape.share(ranks.size, words=True).parameters
    return own if device.type == "cuda" else own * ranks.size


def shape_of(name: str, *, pictures: bool = True) -> Shape:
    """The shape of a named model, a checkpoint folder or a hub id. Of its weights, where they lie
    beside its config, the sizes are read.

    pictures: whether any is to be processed; else the checkpoint's image processor is left alone.
    """
    if known := known_shapes().get(name):
        return known
    architecture, given, source = _read_config(name)
    shape = from_config(name, architecture, given)
    _require_makeable(name, shape, given)
    require_same_weights(name, weight_files(local_folder(source)), shape)
    processor = image_processor(name, source, architecture) if pictures else None
    return shape if processor is None else _fitted(name, source, shape, processor)


def _fitted(name: str, source: str, shape: Shape, processor: Any) -> Shape:
    """The shape with what a checkpoint's processors make of pictures and videos."""
    shape = shape.architecture.fitted(name, shape, processor)
    try:
        described = video_description(source)
    except ValueError as error:
        raise ModelError(f"{name}: no readable video processor ({first_line(error)})") from error
    return shape.architecture.fitted_video(name, shape, described)


def local_folder(source: str) -> Path | None:
    """Where the config of a checkpoint lies on this machine, its weights perhaps beside it."""
    from transformers.utils.hub import cached_file

    path = cached_file(
        source,
        "config.json",
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else Path(path).parent


def require_device_processor(name: str | None) -> None:
    """Raises OptionError, before anything is loaded, where the pictures of a model cannot be
    processed on its device. name: as `load` takes it; None for one that has no checkpoint."""
    require_torchvision()
    if name is None or name in known_shapes():
        return
    architecture, _, source = _read_config(name)
    processor = image_processor(name, source, architecture)
    if processor is not None:
        device_processor(processor)


def _read_config(name: str) -> tuple[Architecture, Any, str]:
    """Architecture, transformers config and source of a checkpoint; raises ModelError."""
    from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

    folder = folder_of(name)
    _check_name(name, folder)
    source = str(folder) if folder.is_dir() else name
    if folder.is_dir():
        require_object(name, folder / "config.json")
    try:
        with _quiet():
            written, _ = PreTrainedConfig.get_config_dict(source)
            _require_known(name, written.get("model_type"))
            require_sections(name, written)
            architecture = by_model_type()[written["model_type"]]
            if not weight_files(local_folder(source)):
                require_sizes(name, written, flat=architecture.flat_config)
            meant = architecture.as_meant(written)
            require_stateless_file(name, meant)
            given = AutoConfig.from_pretrained(source, trust_remote_code=False)
            if meant != written:
                given = CONFIG_MAPPING[architecture.model_type].from_dict(copy.deepcopy(meant))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{name}: no readable model config ({first_line(error)})") from error
    if getattr(given, "auto_map", None):
        raise ModelError(
            f"{name}: brings code of its own (auto_map), which is never run: what was measured "
            "would be transformers' code. Remove auto_map from its config.json to measure that"
        )
    return architecture, given, source


def _require_known(name: str, kind: Any) -> None:
    if not isinstance(kind, str) or kind not in by_model_type():
        known = ", ".join(by_model_type())
        raise ModelError(
            f"{name}: architecture {quoted(kind)} (model_type) is not supported; known: {known}"
        )


def _require_makeable(name: str, shape: Shape, given: Any) -> Any:
    """The model that transformers makes of a config, without memory for its weights; see that it is
    as large as the formulas say. Raises ModelError."""
    try:
        with torch.device("meta"), _quiet():
            made = transformers_class(shape.architecture.class_name)
            module = made._from_config(copy.deepcopy(given))
    except Exception as error:
        why = first_line(error)
        raise ModelError(f"{name}: transformers makes no model of its config ({why})") from error
    _check_size(name, shape, module)
    return module


def _from_checkpoint(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    backend: str,
    ranks: Ranks | None,
    devices: tuple[torch.device, ...],
) -> Model:
    architecture, given, source = _read_config(name)
    shape = from_config(name, architecture, given)
    planned = _require_makeable(name, shape, given)
    spread = None if ranks is None else Sharding(shape, ranks)
    if spread is not None:
        spread.require_plan(planned)
    pipeline = Pipeline(shape, devices) if devices else None
    _require_room(name, shape, device, dtype, ranks, pipeline)
    require_kernel(backend, device, dtype, shape)
    try:
        with _quiet():  # what is wrong is one line of ours
            module, report = transformers_class(architecture.class_name).from_pretrained(
                source,
                config=copy.deepcopy(given),
                dtype=dtype,
                attn_implementation=interface_of(backend),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                distributed_config=None if spread is None else spread.config,
            )
    except Exception as error:
        raise ModelError(f"{name}: no readable weights ({first_line(error)})") from error
    _check_weights(name, report)
    _check_size(name, shape, module)
    brought = companions(source, architecture)
    if brought.image_processor is not None:
        shape = _fitted(name, source, shape, brought.image_processor)
    if pipeline is None:
        module.to(device)
    else:
        pipeline.place(module)
    return architecture.adapter()(
        module,
        shape,
        backend=backend,
        source=f"checkpoint {name}",
        ranks=ranks,
        **vars(brought),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its reports and bars."""
    import transformers

    logging: Any = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _check_size(name: str, shape: Shape, module: Any) -> None:
    """Hold what the formulas say of the model against what was loaded."""
    held = sum(weight.numel() for weight in module.parameters())
    if held != shape.parameters:
        raise ModelError(wrong_size(name, held, shape))


def _check_weights(name: str, report: dict[str, Any]) -> None:
    foreign = sorted(key for key in report["unexpected_keys"] if not key.endswith(BUFFERS))
    if foreign:
        raise ModelError(
            f"{name}: {len(foreign)} weights belong to no part of the model, {foreign[0]!r} first: "
            "it is another one than config.json says, or holds an adapter"
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(
            f"{name}: {len(missing)} weights are missing, {missing[0]!r} first; "
            "the checkpoint is incomplete"
        )
    if report["mismatched_keys"]:
        weight, found, wanted = min(report["mismatched_keys"])
        raise ModelError(
            f"{name}: {len(report['mismatched_keys'])} weights have not the size that config.json "
            f"says, {weight!r} first: {tuple(found)} instead of {tuple(wanted)}"
        )


def _check_name(name: str, folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{name} is a file; give the checkpoint folder that holds config.json")
    if folder.is_dir() and (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{name} holds an adapter (adapter_config.json), which would not be measured; merge it "
            "into its base model, save that, and give its folder"
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{name} is no checkpoint: it holds no config.json")
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.suffix in WEIGHTS and path.is_file() and _is_pointer(path):
            raise ModelError(
                f"{name}: {path.name} is a git-lfs pointer and not the weights; run `git lfs pull`"
            )
    looks_like_hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if not folder.is_dir() and not looks_like_hub_id:
        known = (*known_shapes(), *EMBEDDED)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ModelError(
            f"unknown model {name!r}{hint}; known: {', '.join(known)}, "
            "a checkpoint folder, or a hub id (organisation/name)"
        )


def _is_pointer(path: Path) -> bool:
    """Whether a file stands for one that git-lfs was to fetch."""
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER
