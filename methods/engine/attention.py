"""Attention for the engine: the model's own kernel, and beside it just the rows a method reads.

One function is registered with transformers' attention interface, when the engine first runs. It
is in force for the length of one request only; the model's own setting comes back afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..contract.arrangement import gathered
from .ranks import Ranks

NAME = "tpprof"
PACKED = f"{NAME}-flash"
"""The name for towers under FlashAttention: by its end, transformers hands all pictures or windows
over in one call, as it does to that kernel."""
PACKING = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
"""What says where each picture or window ends in such a call."""
SDPA_KERNELS = {
    "sdpa-flash": "FLASH_ATTENTION",
    "sdpa-cudnn": "CUDNN_ATTENTION",
    "sdpa-efficient": "EFFICIENT_ATTENTION",
}
"""Backends that hold torch's scaled_dot_product_attention to one kernel, by torch's name of it."""


BIASED = ("sdpa", "sdpa-efficient", "eager")
"""Backends that take what proportional attention adds to the scaled products."""


@dataclass
class Reading:
    """What to read of one layer's attention, and then what was read.

    Rows `start:stop` of the queries, none if they are equal; of the keys, `columns` are returned,
    a slice, or places int64 [N, n].
    With `causal`, row i attends to keys 0..i and the rows are the last ones before `stop`.
    `mean_rows` averages over the rows; `each_head` keeps the heads apart; without `softmax` rows
    are the scaled products before it. `whole_map`: average the heads of the whole map first, as the
    released code does. `with_keys`: the keys as well. `ahead`: the layer is run for this alone, and
    no further than to its attention. lengths: of what attends to itself inside a tile, called one
    by one; () where all tiles are called at once, or each as a whole. A mean over all rows is one
    over those of the whole tile: outside its own length a row gives nothing. ranks: those over
    which the heads are spread; what is read is that of all heads.

    values: float32 [N, rows, columns], or [N, H, rows, columns] with each head. keys: [N, heads of
    keys, tokens, head_dim].
    """

    start: int
    stop: int
    columns: slice | Tensor
    causal: bool = True
    mean_rows: bool = False
    each_head: bool = False
    softmax: bool = True
    whole_map: bool = False
    with_keys: bool = False
    ahead: bool = False
    lengths: tuple[int, ...] = ()
    ranks: Ranks | None = None
    parts: list[Tensor] = field(default_factory=list)
    key_parts: list[Tensor] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def values(self) -> Tensor | None:
        whole = sum(self.lengths)
        shares = [length / whole if self.mean_rows else 1.0 for length in self.lengths]
        return _joined(self.parts, shares, -1)

    @property
    def keys(self) -> Tensor | None:
        return _joined(self.key_parts, [1.0] * len(self.lengths), 2)

    def take(self, weights: Tensor) -> None:
        """Store rows [N, H, rows, keys]."""
        rows = weights.float()
        if isinstance(self.columns, slice):
            rows = rows[..., self.columns]
        else:
            rows = gathered(rows, self.columns, 3)
        if not self.each_head:
            rows = rows.mean(1)
        if self.mean_rows:
            rows = rows.mean(-2, keepdim=True)
        if self.ranks is not None:
            rows = self.ranks.gathered(rows, 1) if self.each_head else self.ranks.mean(rows)
        self.parts.append(rows)

    def take_keys(self, keys: Tensor) -> None:
        """Store keys [N, heads of keys, tokens, head_dim]."""
        self.key_parts.append(self.ranks.gathered(keys, 1) if self.ranks is not None else keys)


def _joined(parts: list[Tensor], shares: list[float], dim: int) -> Tensor | None:
    """Parts one behind another: along `dim` those of a tile, each weighed by its share, and then
    tile by tile."""
    if len(shares) > 1:
        each = len(shares)
        parts = [
            torch.cat([p * s for p, s in zip(parts[n : n + each], shares, strict=True)], dim)
            for n in range(0, len(parts), each)
        ]
    return torch.cat(parts) if len(parts) > 1 else next(iter(parts), None)


class AheadError(Exception):
    """Ends a layer that was run up to its attention alone: raised when that has been read."""


@dataclass
class Attention:
    """How the layer at hand computes attention; handed to it as the keyword argument `tpprof`.

    `use_map`: build the full softmax map instead of calling the backend. `host_mask`: build the
    map's mask on the host and copy it. `reading`: rows to read; `lap` is told "layer" before that
    and "score" after. lengths: of all that attends to itself in a tower, if it is handed over in
    one call. bias: added to the scaled products, of a layer that takes no mask to pass on.
    """

    backend: str
    use_map: bool = False
    host_mask: bool = False
    reading: Reading | None = None
    lap: Callable[[str], None] | None = None
    lengths: tuple[int, ...] = ()
    bias: Tensor | None = None
    masks: dict[tuple[int, torch.dtype, torch.device], Tensor] = field(default_factory=dict)

    def mask(self, query: Tensor, keys: int) -> Tensor | None:
        """The additive causal mask [1, 1, S, keys] of a map; none is needed for a single query."""
        rows = query.shape[2]
        if rows == 1 and not self.host_mask:
            return None
        if self.host_mask:
            return _causal_mask(rows, keys, query.dtype, torch.device("cpu")).to(query.device)
        form = (rows, query.dtype, query.device)
        if form not in self.masks:
            self.masks = {form: _causal_mask(rows, keys, query.dtype, query.device)}
        return self.masks[form]


def _causal_mask(rows: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    lowest = torch.finfo(dtype).min
    return torch.full((rows, keys), lowest, dtype=dtype, device=device).triu_(keys - rows + 1)[
        None, None
    ]


@contextmanager
def in_force(
    *configs: Any, name: str = NAME, function: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Let the attention layers under `configs` call `function` (`attend`), registered under
    `name`, then restore their setting."""
    from transformers import AttentionInterface

    AttentionInterface.register(name, function or attend)
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = name
        yield
    finally:
        for config, own in zip(configs, before, strict=True):
            config._attn_implementation = own


@contextmanager
def told(module: nn.Module, attention: Attention) -> Iterator[None]:
    """Let an attention layer that passes no arguments on to its kernel compute as `attention` says.
    It holds that no longer than this: there hang the tensors of a request."""
    vars(module)[NAME] = attention
    try:
        yield
    finally:
        del vars(module)[NAME]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tpprof: Attention | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of one layer, as transformers' attention interface asks for it.

    query [B, H, S, hd], key and value [B, Hkv, keys, hd]; returns the output [B, S, H, hd].
    tpprof: how to compute it; None where the layer was told so (`told`).
    `attention_mask`, additive, is given only where a static cache holds keys still to come.
    """
    if tpprof is None:
        tpprof = vars(module)[NAME]
    assert tpprof is not None
    if attention_mask is None:
        attention_mask = tpprof.bias
    reading = tpprof.reading
    if "cu_seq_lens_q" in options and (tpprof.use_map or reading is not None):
        return _attend_apart(module, (query, key, value), tpprof, options)
    causal = options.get("is_causal", getattr(module, "is_causal", True))
    own_map = tpprof.use_map or tpprof.backend == "eager"
    of_map = own_map and reading is not None and reading.softmax and not reading.ahead
    if reading is not None:
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        bias = None if causal else attention_mask
        _read(tpprof, reading, query, key, scale, bias, rows=not of_map)
    if not own_map:
        return call_backend(tpprof.backend, module, query, key, value, attention_mask, **options)
    mask = attention_mask
    if mask is None and causal:
        mask = tpprof.mask(query, key.shape[2])
    output, weights = _eager(module)(module, query, key, value, mask, **options)
    if reading is not None and reading.rows and of_map:
        _timed(tpprof, lambda: reading.take(_rows_of(weights, reading)))
    return output, None


def _attend_apart(
    module: nn.Module,
    states: tuple[Tensor, Tensor, Tensor],
    attention: Attention,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """Attention of a tower that hands all pictures or windows over at once: a map is built of each
    by itself, and rows are read so, beside the kernel that takes them all."""
    lengths = list(attention.lengths)
    queries, keys, values = (torch.split(tensor, lengths, 2) for tensor in states)
    if attention.use_map:
        alone = {name: value for name, value in options.items() if name not in PACKING}
        parts = zip(queries, keys, values, strict=True)
        outputs = [attend(module, q, k, v, None, tpprof=attention, **alone)[0] for q, k, v in parts]
        return torch.cat(outputs, 1), None
    scale, reading = options.get("scaling") or states[0].shape[-1] ** -0.5, attention.reading
    assert reading is not None
    for query, key in zip(queries, keys, strict=True):
        _read(attention, reading, query, key, scale, None, rows=True)
    return call_backend(attention.backend, module, *states, None, **options)


def _read(
    attention: Attention,
    reading: Reading,
    query: Tensor,
    key: Tensor,
    scale: float,
    bias: Tensor | None,
    *,
    rows: bool,
) -> None:
    """Read keys, and rows beside the kernel where the map does not hold them; raises AheadError
    where the layer is run for no more than that."""
    if reading.with_keys:
        reading.take_keys(key)
    if reading.rows and rows:
        _timed(attention, lambda: reading.take(attention_rows(query, key, scale, reading, bias)))
    if reading.ahead:
        raise AheadError


def call_backend(
    backend: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers' own function for a backend computes it; shapes as of `attend`."""
    return _backend(interface_of(backend))(
        _as_backend(module, backend), query, key, value, mask, **options
    )


def tower_interface(backend: str) -> str:
    """What the engine's attention is called under a tower."""
    return PACKED if backend.startswith("flash") else NAME


def interface_of(backend: str) -> str:
    """What transformers' attention interface calls a backend."""
    return "sdpa" if backend in SDPA_KERNELS else backend


def held_to(backend: str) -> AbstractContextManager[None]:
    """torch's attention held to the kernel that a backend names, if it names one: where that
    cannot run, torch raises RuntimeError."""
    if backend not in SDPA_KERNELS:
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    held: AbstractContextManager[None] = sdpa_kernel(getattr(SDPBackend, SDPA_KERNELS[backend]))
    return held


def attention_rows(
    query: Tensor, key: Tensor, scale: float, reading: Reading, bias: Tensor | None = None
) -> Tensor:
    """Attention [N, H, rows, keys], float32, of the rows that `reading` names.

    bias: added before the softmax, [N, 1, 1, keys]. Matrix product: 2 * N * H * rows * keys *
    head_dim FLOPs, keys up to the last row if causal.
    """
    batch, heads, _, width = query.shape
    keys = reading.stop if reading.causal else key.shape[2]
    asked, groups = query[:, :, reading.start : reading.stop], key.shape[1]
    rows, wanted = asked.shape[2], asked.reshape(batch, groups, -1, width)
    # Scaled before the product: in float16 the plain one can overflow.
    logits = (wanted * scale) @ key[:, :, :keys].transpose(2, 3)
    logits = logits.float().view(batch, heads, rows, keys)
    if bias is not None:
        logits = logits + bias
    if reading.causal and rows > 1:
        hidden = torch.ones(rows, keys, dtype=torch.bool, device=query.device)
        logits = logits.masked_fill_(hidden.triu_(keys - rows + 1), float("-inf"))
    return logits.softmax(-1) if reading.softmax else logits


def _rows_of(weights: Tensor, reading: Reading) -> Tensor:
    if reading.whole_map and not reading.each_head:
        weights = weights.mean(1, keepdim=True)
    return weights[:, :, reading.start : reading.stop]


def _timed(attention: Attention, read: Callable[[], None]) -> None:
    if attention.lap:
        attention.lap("layer")
    read()
    if attention.lap:
        attention.lap("score")


def _eager(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    """transformers' own eager attention for this kind of layer; it returns its map."""
    home: Any = sys.modules[type(module).__module__]
    eager: Callable[..., tuple[Tensor, Tensor]] = home.eager_attention_forward
    return eager


def _backend(name: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    backend: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS[name]
    return backend


def _as_backend(module: nn.Module, backend: str) -> Any:
    """The module as flash attention must see it: it looks its kernel up by the config's name."""
    if not backend.startswith("flash"):
        return module
    return SimpleNamespace(
        config=SimpleNamespace(_attn_implementation=backend),
        is_causal=getattr(module, "is_causal", True),
        layer_idx=getattr(module, "layer_idx", None),
        training=module.training,
        modules=module.modules,
    )
