"""The report: results, tables, charts, figures and one HTML page."""
