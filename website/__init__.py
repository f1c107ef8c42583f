"""Makes the documentation site's pages that are not in docs/: `make docs`."""
