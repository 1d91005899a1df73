"""The figures of the report, drawn as SVG by Vega-Lite when the report is written, so the page needs no script."""
