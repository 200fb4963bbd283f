"""Adapters -> an evaluation: what is asked, what was answered, what it is worth."""
