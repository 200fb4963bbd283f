"""Names that receipts use, as people read them."""

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
    "absent": "leaves out what is wrong",
    "choice": "right option",
    "closed": "right yes or no",
    "contains": "names what it must",
    "disclaimer": "cautions at most once",
    "emergency": "warns of an emergency",
    "empathy": "warm words",
    "fields": "fields read from the image",
    "figure": "right figure",
    "grading": "right grading",
    "no_absolute": "no absolute claim",
    "no_prescription": "no prescription",
    "no_stale_range": "no outdated range",
    "overlap": "close to the reference",
    "referral": "refers to a doctor",
}


def name(word: str, lang: Lang) -> str:
    """The name of a thing in the report's language; one that is not known stays as it is.

    A second check of one kind in a question, ``contains_2``, is ``names what it must (2)``.
    """
    kind, _, number = word.rpartition("_")
    if kind in WORDS and number.isdigit():
        return f"{name(kind, lang)} ({number})"
    return tr(WORDS.get(word, word), lang)
