"""medtune: fine-tune a Qwen3-VL on one's own Mac for medical questions, and prove every step."""

import os

# Hugging Face's libraries read these when they are imported, ours before any of them, and hand them to every child. A
# download that was asked for is let through where it is made: model/base.py.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")

__version__ = "2.0.0"
