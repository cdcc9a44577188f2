"""What a method sees and must answer. Starts without torch."""
