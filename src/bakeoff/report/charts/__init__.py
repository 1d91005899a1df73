"""The report's figures: drawn by Vega-Lite as SVG when the report is written, so that the page needs no script."""
