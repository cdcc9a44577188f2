"""The regression gate: what is decided, and how it is told. No torch here."""
