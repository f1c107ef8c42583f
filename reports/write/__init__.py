"""From findings, tables and figures to files."""
