"""medtune: fine-tune a Qwen3-VL on one's own Mac for medical questions, and prove every step."""

__version__ = "2.0.0"
