"""What a request costs, by formula: FLOPs, bytes and launches of each operator class. No torch."""

from .request import items, kv_bytes, text_only
from .work import Item, Work, as_record, total

__all__ = ["Item", "Work", "as_record", "items", "kv_bytes", "text_only", "total"]
