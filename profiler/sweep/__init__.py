"""Many comparisons as one: a grid of models, requests and budgets."""
