"""The report: receipts -> Markdown, one HTML page and figures. It only reads; no stage calls it."""
