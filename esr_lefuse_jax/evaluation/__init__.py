"""Measuring folders of results: inputs, the run, tables, HTML report, figures, published tables."""
