"""The norms that torch does not have, a module for each; `suite.specs.norm_table` lists them."""
