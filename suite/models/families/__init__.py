"""The model families, declared in each module's `FAMILIES`; see `suite.models.generate_architectures`."""
