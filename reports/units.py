"""The one place where seconds, bytes and FLOPs become text. Inside, everything is SI."""

from __future__ import annotations

NA = "n/a"


def milliseconds(seconds: float | None) -> str:
    return NA if seconds is None else f"{seconds * 1e3:,.{_digits(seconds * 1e3)}f}"


def megabytes(count: float | None) -> str:
    """MB of 10^6 bytes, as the paper counts the KV cache."""
    return NA if count is None else f"{count / 1e6:,.{_digits(count / 1e6)}f}"


def gibibytes(count: float | None) -> str:
    return NA if count is None else f"{count / 2**30:.2f} GiB"


def percent(share: float | None, digits: int = 1) -> str:
    return NA if share is None else f"{share * 100:.{digits}f} %"


def joules(count: float | None) -> str:
    return NA if count is None else f"{count:,.{_digits(count)}f}"


def times(ratio: float | None) -> str:
    return NA if ratio is None else f"{ratio:.2f}x"


def interval(low: float, high: float, form: str = ".2f") -> str:
    """The ends of an interval of plain numbers, or of ratios."""
    return ends(f"{low:{form}}", f"{high:{form}}")


def ends(low: str, high: str) -> str:
    """The ends of an interval: "to" reads well beside a minus."""
    return f"({low} to {high})"


def amount(count: float | None, of: str) -> str:
    """A count of FLOPs or MACs in the fitting unit."""
    if count is None:
        return NA
    scale, unit = (1e12, "T") if count >= 1e11 else (1e9, "G") if count >= 1e8 else (1e6, "M")
    return f"{count / scale:,.{_digits(count / scale)}f} {unit}{of}"


def microseconds(seconds: float | None) -> str:
    return NA if seconds is None else f"{seconds * 1e6:,.{_digits(seconds * 1e6)}f} us"


def bandwidth(bytes_per_second: float | None) -> str:
    if bytes_per_second is None:
        return NA
    return f"{bytes_per_second / 1e9:,.{_digits(bytes_per_second / 1e9)}f} GB/s"


def rate(flops_per_second: float | None) -> str:
    """FLOP/s in the fitting unit."""
    if flops_per_second is None:
        return NA
    large = flops_per_second >= 1e12
    value = flops_per_second / (1e12 if large else 1e9)
    return f"{value:,.{_digits(value)}f} {'TFLOP/s' if large else 'GFLOP/s'}"


def _digits(value: float) -> int:
    """Decimals that leave three or four significant figures."""
    size = abs(value)
    return 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
