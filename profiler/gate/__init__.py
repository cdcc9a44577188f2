"""The regression gate: what is measured for it, and its commands."""
