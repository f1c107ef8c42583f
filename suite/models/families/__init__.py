"""The model families, declared in each module's `FAMILIES`; see `tests.helpers.generate_architectures`."""
