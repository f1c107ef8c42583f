"""From records to pages. Knows no trainer: it reads records, the metric registry and configurations."""
