"""What a cell measures: the engine with a method, or a callable; one class for each."""
