"""What runs a callable, here or in a Python of its own: needs torch alone, and Python 3.9."""
