"""The page: one HTML file that holds all it needs, made from one or more records."""
