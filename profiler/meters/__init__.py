"""What is read while a request runs: times, memory, energy, clocks, operators."""
