"""Every word of the page that a reader may ask about."""

from __future__ import annotations

GLOSSARY = {
    "cell": "One method under one attention policy and one runtime: a row of the table.",
    "attention: rows, maps, published": "How the layers that a method scores are computed: the "
    "model's own kernel and just the attention rows that the score reads; a full softmax map in "
    "those layers; or what the released code executes.",
    "runtime": "eager: operators launched one by one; graph: decode replayed as a CUDA graph; "
    "compile: decoder layers under torch.compile.",
    "round": "One sample of every cell, in balanced order; with --isolate one process of every "
    "cell. The unit of all intervals.",
    "latency": "Host wall-clock of a whole request, from a decoded picture in memory to the last "
    "token, the wait for the device included. The median over rounds.",
    "±": "Half the width of the 95 % interval over the median, the wider of latency and prefill. "
    "`missed`: wider than the target. From fewer than six rounds there is none.",
    "p95, p99": "Percentiles of the latency by nearest rank; from 100 and 662 samples on.",
    "prefill": "The decoder layers over the whole prompt, scoring and selection included.",
    "decode": "All tokens after the first, per token.",
    "first call": "The first request of all: loading, compiling and capturing are in it.",
    "visual tokens": "Visual tokens entering a decoder layer: at the last one, and the mean over "
    "all layers.",
    "FLOPs": "Matrix products of the whole request, vision tower and head included: 1 MAC = 2 "
    "FLOPs, dense attention, all tokens that enter a layer. As a share of vanilla's.",
    "speed-up promised": "FLOPs of vanilla over those of the method: F0 / F.",
    "speed-up measured": "Latency of vanilla over that of the method, in pairs within a round, "
    "under the same runtime: T0 / T. 20 % trimmed mean of the logarithms, studentised 95 % "
    "interval (Yuen 1974).",
    "realised share": "The share of the promised saving of time that the clock confirms: "
    "(1 - T / T0) / (1 - F / F0).",
    "KV cache": "Bytes of the real key and value tensors after prefill, text included; MB of 10^6.",
    "peak memory": "On a GPU the peak of torch's allocator during one request; on a CPU the "
    "resident memory of the process, weights included.",
    "energy": "Joules of the whole GPU per request, from its counter over two seconds of requests.",
    "pruning": "Time of scoring, selecting, moving, merging and compressing tokens, wherever.",
    "promised time": "The share of FLOPs that remains, times vanilla's latency.",
    "layers before the prune": "What layers that see every token take beyond their promise.",
    "layers after the prune": "Their share of FLOPs against the share of the whole request.",
    "attention maps": "`maps` minus `rows` of the same method, where maps are built: measured.",
    "released code": "`published` minus `maps` of the same method: measured.",
    "shorter sequences": "Layers after the prune do less work per second than long ones do.",
    "waiting for the host": "On a GPU the time in which it was not busy; on a CPU operators times "
    "the least time that one takes.",
    "remainder": "What no part of the explanation accounts for.",
    "suspect sample": "Throttled, beside another process on the GPU, or with an allocation or a "
    "compilation in its window. It is kept and counts.",
    "operators, launches": "Outermost torch operators that the host called; kernel and graph "
    "launches of the GPU.",
    "syncs, waits": "Calls that made the host wait for the device.",
    "GPU busy": "Time in which kernels or copies ran, over the span of the phase.",
    "roofline, floor": "The least time that the device allows: over all operators the greater of "
    "FLOPs over peak and bytes over bandwidth, and a fixed time for each launch.",
    "position bias": "How unevenly kept tokens lie over the token index. Offset: mean of their "
    "relative positions (0 first, 1 last) less 0.5, times 2; 0 is even, +1 all at the end. "
    "Divergence: Jensen-Shannon divergence, in bits, of their histogram over 32 bins (fewer of "
    "fewer tokens) from the even one; 0 is even, 1 the most. By chance: what an even random "
    "choice of as many tokens comes to on average (hypergeometric, exact).",
    "n/a": "Not measured or not known; never zero.",
}
