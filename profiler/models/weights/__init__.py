"""How the weights of a model come to lie where it runs: drawn at random, or spread over ranks."""
