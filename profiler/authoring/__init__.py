"""For authors: the contract held on small models, and the file that a method begins as."""
