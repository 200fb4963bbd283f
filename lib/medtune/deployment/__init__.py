"""Adapters -> a proved folder in LM Studio."""
