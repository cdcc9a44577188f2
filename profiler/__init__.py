"""What is measured, and the command."""
