"""The bench: one job, several trainers, each in a process of its own; what they took is measured alike."""
