"""Records as lines and tables: terminal, Markdown, CSV, JSON and LaTeX."""
