"""What is saved and shown: the record's schema, statistics, tables and text. No torch here."""
