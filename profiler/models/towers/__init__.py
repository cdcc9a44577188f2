"""Vision towers that several architectures share."""
