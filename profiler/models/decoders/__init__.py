"""Decoders that several architectures share."""
