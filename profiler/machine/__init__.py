"""What is known of the machine: surroundings, peaks, and what would spoil a measurement."""
