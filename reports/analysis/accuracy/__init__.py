"""What saved answers come to: rules and scores."""
