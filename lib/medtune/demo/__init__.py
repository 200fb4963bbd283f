"""The demo's own world: its facts, its phrases, its images and its small model.

Used when the demo's assets are made (``tools/make_demo_data.py``, ``tools/make_demo_model.py``) and by tests and
benchmarks that need a model folder (``random_model``); nothing on the path from raw files to a deployed model
imports it.
"""
