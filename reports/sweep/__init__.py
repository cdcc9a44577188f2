"""What comes of many records: a sweep, and a trend."""
