"""From records to pages. Knows no trainer: it reads records, the metric registry and configurations."""

from suite.user import home_or_none, some_home

if home_or_none() is None:
    with some_home():
        import altair as _altair  # noqa: F401 - asks for the home folder when it is imported
