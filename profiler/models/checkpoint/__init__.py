"""What a checkpoint's files say, before a model is made of them."""
