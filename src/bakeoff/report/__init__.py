"""What people see of results: the table, the plan, one HTML page, figures, CSV and Markdown."""
