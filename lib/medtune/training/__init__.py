"""Data set -> adapters: weighting, trunk, step, loop and checkpoints."""
