"""What follows from a record: numbers and sentences, no tables."""
