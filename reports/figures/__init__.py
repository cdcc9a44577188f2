"""The figures of a report, drawn by matplotlib: for the page as SVG, for papers as PNG and PDF."""
