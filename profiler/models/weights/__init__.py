"""How the weights of a model come to lie where it runs: drawn at random, spread over ranks, or laid
over the devices of a pipeline."""
