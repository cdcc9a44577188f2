"""Measuring: cells, rounds, processes, and what is kept of a run that ends early."""
