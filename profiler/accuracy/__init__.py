"""What a model answers: questions about pictures, asked under each method."""
