"""Names that receipts use, as people read them; a check says its own."""

from __future__ import annotations

from medtune.i18n import Lang, tr

WORDS = {
    "manifest": "Data preparation",
    "training": "Training",
    "evaluation": "Evaluation",
    "deployment": "Deployment",
    "measured": "done",
    "stale": "stale",
    "missing": "not measured",
    "accuracy": "Accuracy",
    "warmth": "Warmth",
    "vision": "Vision",
    "overall": "Overall",
    "train": "Training set",
    "valid": "Validation set",
    "test": "Test set",
    "finished": "all steps taken",
    "early_stop": "stopped early: the validation loss no longer fell",
    "better": "better",
    "worse": "worse",
    "undecided": "no proven difference",
    "passed": "passed",
    "failed": "failed",
    "skipped": "not run",
    "nominal": "nominal",
    "effective": "effective",
    "trained": "as trained",
    "attention": "attention",
    "mlp": "MLP",
    "expert": "experts",
    "router": "router",
    "merger": "merger",
}


def name(word: str, lang: Lang) -> str:
    """The name of a thing in the report's language; one that is not known stays as it is."""
    return tr(WORDS.get(word, word), lang)
