"""What is wrong with a model, as one line."""

from __future__ import annotations

from ...methods.contract.errors import InputError


class ModelError(InputError):
    """A model that does not exist, cannot be read, or that is not understood."""
