"""The model: a base's folder, what its files say, its parts, its adapters, and its answers."""
