"""Does anything leave this machine? The whole chain with every Python process watched, and a proxy that writes down."""
