"""The model card says what the deployed model was made of and where its knowledge ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from medtune.deployment import modelcard
from medtune.receipt import Receipt
from tests import fakerun


def card(tmp_path: Path, sources: list[dict[str, object]]) -> str:
    run = fakerun.write_run(tmp_path, "manifest", "training", "evaluation")
    training, evaluation = (Receipt.read(run / f"{stage}.json") for stage in ("training", "evaluation"))
    manifest = Receipt.read(next(tmp_path.rglob("manifest.json")))
    manifest = dataclasses.replace(manifest, config={**manifest.config, "sources": sources})
    return modelcard.write("medtune/mine", training, evaluation, manifest, "bf16")


def test_the_card_names_the_versions_of_the_standards_its_data_follow_once_each(tmp_path: Path):
    sources = [
        {"path": "a", "standards": ["WS/T 405-2012"]},
        {"path": "b"},
        {"path": "c", "standards": ["WS/T 428-2013", "WS/T 405-2012"]},
    ]
    assert "follow: WS/T 405-2012, WS/T 428-2013. Guidelines change." in card(tmp_path, sources)


def test_a_card_whose_data_name_no_standard_says_so(tmp_path: Path):
    assert "which name no standard" in card(tmp_path, [{"path": "a"}])


def test_no_raw_file_is_named_since_it_may_be_called_after_a_patient(tmp_path: Path):
    run = fakerun.write_run(tmp_path, "manifest", "training")
    manifest = Receipt.read(next(tmp_path.rglob("manifest.json")))
    manifest.config["sources"] = []
    manifest.results["sources"] = [{"path": "raw/张伟_13800138000.jsonl", "records": 3, "license": "MIT"}]
    text = modelcard.write("medtune/mine", Receipt.read(run / "training.json"), None, manifest, "bf16")
    assert "张伟" not in text and "source 1: 3 records, MIT" in text
