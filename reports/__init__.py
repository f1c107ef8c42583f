"""From records to pages. Knows no trainer: records, the metric registry and the configuration are all it reads."""
