"""The monitor: metrics.jsonl -> a living screen, dense lines, or a local page."""
