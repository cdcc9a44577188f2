"""What is known of the machine: its surroundings, its peaks, and what would spoil a measurement."""
