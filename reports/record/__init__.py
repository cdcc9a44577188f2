"""What is saved: the record of a run, its files, and what was asked for. JSON, versioned."""
