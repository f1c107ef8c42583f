"""The kinds of chart, in Vega-Lite by Altair. They know no records, only columns."""
