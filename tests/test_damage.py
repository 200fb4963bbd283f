"""One flipped bit in any file that a stage left: the next one says so in one line or makes it anew.

A chain is made once; each test damages a copy. Healed means: what the tool then leaves equals what it left before.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from medtune import cli, files
from medtune.deployment import proof
from medtune.deployment.proof import Verdict, references
from medtune.model.tensors import Shard
from medtune.receipt import Receipt
from medtune.training import checkpoints
from tests.workshop import settings_file, write_dataset
from tools import deploy_to_lmstudio, make_report, monitor_training, prepare_data, test_v2_model, train_final

PLACES = 3  # bits flipped in each file, one at a time
EVAL = {
    "max_tokens": 3,
    "batch_size": 8,
    "max_items": 1,
    "seed": 0,
    "gate": {"accuracy": -1.0, "warmth": -1.0, "vision": -1.0, "superior": 0, "pass_rate": {}},
}
DEPLOY = {"publisher": "medtune", "name": "small-v2", "precision": "auto", "system_prompt": "training", "home": ""}


@dataclass(frozen=True)
class Chain:
    """The folders of one chain, and its tools as a person calls them."""

    root: Path
    whole: Path  # a copy, before any damage

    @property
    def run(self) -> Path:
        return self.root / "run"

    def restore(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.whole, self.root)

    def call(self, verb: str) -> int:
        root, run = self.root, str(self.run)
        deploy = [run, "--config", str(root / "deploy.yaml")]
        training = ["--config", str(root / "train.yaml"), "--cache", str(root / "cache")]
        evaluation = [run, str(root / "dataset"), "--config", str(root / "eval.yaml")]
        raw = [str(root / "raw/records.jsonl"), "--config", str(root / "raw/data.yaml")]
        tools: dict[str, tuple[Callable[[list[str] | None], None], list[str]]] = {
            "data": (prepare_data.main, [*raw, "--out", str(root / "dataset")]),
            "train": (train_final.main, [str(root / "dataset"), *training, "--out", run]),
            "train again": (train_final.main, [str(root / "dataset"), *training, "--out", str(root / "again")]),
            "resume": (train_final.main, [str(root / "dataset"), *training, "--out", str(root / "half")]),
            "test-model": (test_v2_model.main, evaluation),
            "chat": (test_v2_model.main, [*evaluation, "--prompt", "血压高吗"]),
            "deploy": (deploy_to_lmstudio.main, deploy),
            "dry run": (deploy_to_lmstudio.main, [*deploy, "--dry-run"]),
            "prove": (deploy_to_lmstudio.main, [*deploy, "--prove"]),
            "undeploy": (deploy_to_lmstudio.main, [*deploy, "--undeploy"]),
            "monitor": (monitor_training.main, [run, "--once"]),
            "report": (make_report.main, [run, "--out", str(root / "report"), "--lang", "en"]),
        }
        return cli.call(*tools[verb])

    def left(self) -> dict[str, Any]:
        """What the stages left that must be the same whenever they are run: no times in it."""
        rows = [row for row in files.read_sealed(self.run / "predictions.jsonl") if row]
        found: dict[str, Any] = {"answers": sorted((row["id"], row["model"], row["answer"]) for row in rows)}
        for folder in ("run", "again", "half", "dataset", "dataset/images", "run/lmstudio/medtune/small-v2"):
            for path in sorted((self.root / folder).glob("*.safetensors")) + sorted((self.root / folder).glob("*.png")):
                found[f"{folder}/{path.name}"] = files.sha256(path)
        for stage, keys in RESULTS.items():
            path = self.root / ("dataset" if stage == "manifest" else "run") / f"{stage}.json"
            found[stage] = {key: Receipt.read(path).results.get(key) for key in keys} if path.exists() else None
        found["splits"] = {
            name: files.sha256(self.root / f"dataset/{name}.jsonl") for name in ("train", "valid", "test")
        }
        return found


RESULTS = {
    "manifest": ("splits", "rejected", "tokenizer"),
    "training": ("val_loss", "train_loss", "selected"),
    "evaluation": ("dimensions", "gate", "migration"),
    "deployment": ("layers", "files", "precision"),
}


@pytest.fixture(scope="module", autouse=True)
def _unproved() -> Any:
    """Only what needs no process of its own looks: here nothing is proved but that files are what they were."""
    with pytest.MonkeyPatch.context() as patch:
        for level, module in proof.levels():
            if level != "L0":
                patch.setattr(module, "check", lambda subject: Verdict("skipped"))
        patch.setattr(references, "record", lambda *args: references.References([], ""))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, dense_twin: Path, root: Path) -> Chain:
    """Data, a run, half a run, answers and a deployed folder."""
    folder = tmp_path_factory.mktemp("made")
    chain = Chain(folder / "chain", folder / "whole")
    folder = chain.root
    write_dataset(folder, dense_twin, count=42)
    settings_file(folder / "train.yaml", dense_twin, trunk_cache="on", iters=6, keep_last=9)
    bench = folder / "bench"
    bench.mkdir()
    (bench / "recommended.jsonl").touch()
    for name, values in (("eval", {**EVAL, "bench": str(bench)}), ("deploy", DEPLOY)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    save = checkpoints.save

    def saving(path: Path, *rest: Any) -> None:
        save(path, *rest)
        if not (folder / "half").exists():
            shutil.copytree(path.parent, folder / "half")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "save", saving)
        assert chain.call("train") == 0
    assert chain.call("test-model") == chain.call("deploy") == 0
    shutil.copytree(chain.root, chain.whole)
    return chain


def flip(path: Path, seed: int) -> str:
    """Flip one bit of a file, which gets a new inode: some are links to others."""
    data, draw = bytearray(path.read_bytes()), random.Random(f"{path.name}{seed}")
    place, bit = draw.randrange(len(data)), draw.randrange(8)
    data[place] ^= 1 << bit
    path.unlink()
    path.write_bytes(data)
    return f"byte {place}, bit {bit}"


ARTEFACTS: dict[str, tuple[str, ...]] = {  # file: who reads it
    "run/adapters.safetensors": ("train", "test-model", "chat", "deploy", "dry run", "prove"),
    "run/adapter_config.json": ("train", "test-model", "chat", "deploy", "dry run", "prove"),
    "run/training.json": ("train", "test-model", "chat", "deploy", "report"),
    "run/evaluation.json": ("test-model", "deploy", "report"),
    "run/predictions.jsonl": ("test-model", "report"),
    "run/metrics.jsonl": ("report", "monitor"),
    "run/deployment.json": ("deploy", "prove", "report"),
    "run/lmstudio/medtune/small-v2/model.safetensors": ("deploy", "prove"),
    "run/lmstudio/medtune/small-v2/config.json": ("deploy", "prove"),
    "run/lmstudio/medtune/small-v2/tokenizer.json": ("deploy", "prove"),
    "run/lmstudio/.medtune/medtune/small-v2/deployed.json": ("undeploy",),
    "half/resume.safetensors": ("resume",),
    "half/adapters.safetensors": ("resume",),
    "half/adapter_config.json": ("resume",),
    "dataset/manifest.json": ("data", "train again", "train"),
    "dataset/train.jsonl": ("data", "train again"),
    "dataset/test.jsonl": ("data", "test-model"),
    "dataset/images/*.png": ("data", "train again"),
    "dataset/images/.index.jsonl": ("data", "train again"),
    "dataset/encodings/train.bin": ("train again",),
    "dataset/encodings/index.json": ("train again",),
    "cache/*/part-*/hidden.bin": ("train again",),
    "cache/*/part-*/positions.bin": ("train again",),
    "cache/*/part-*/visual.bin": ("train again",),
    "cache/*/part-*/index.json": ("train again",),
}


@pytest.mark.parametrize(("artefact", "verb"), [(name, verb) for name, verbs in ARTEFACTS.items() for verb in verbs])
def test_a_flipped_bit_is_said_in_one_line_or_healed(
    made: Chain, capsys: pytest.CaptureFixture[str], artefact: str, verb: str
) -> None:
    made.restore()
    assert made.call(verb) == 0, "it works where nothing is damaged"
    left = made.left()
    for seed in range(PLACES):
        made.restore()
        draw = random.Random(seed)
        path = draw.choice(sorted(made.root.glob(artefact)))
        adapters = files.sha256(made.run / "adapters.safetensors") if "adapters" not in artefact else ""
        where = f"{path.relative_to(made.root)}, {flip(path, seed)}"
        capsys.readouterr()
        code, said = made.call(verb), capsys.readouterr()
        if code:
            assert code == 1 and said.err.startswith("error: ") and said.err.count("\n") == 1, f"{where}: {said.err}"
            named = (path.name, path.parent.name, "refused at L0")
            assert any(word in said.err for word in named), f"{where}: {said.err}"
        elif "cache" in artefact:  # computed again in another batch: equal but for rounding
            assert "trunk cache: all" not in said.out, where
            losses = [Receipt.read(made.root / name / "training.json").results["val_loss"] for name in ("run", "again")]
            assert losses[1] == pytest.approx(losses[0], rel=1e-4), where
        else:
            spoiled = {"answers", str(path.relative_to(made.root))}  # what a tool that does not write it leaves there
            unread = spoiled if verb in ("train again", "report", "monitor") else set()
            found = made.left()
            assert [name for name in left if name not in unread and found[name] != left[name]] == [], where
        assert not adapters or files.sha256(made.run / "adapters.safetensors") == adapters, where


@pytest.mark.parametrize(
    ("artefact", "verb"),
    [
        ("run/training.json", "test-model"),
        ("run/evaluation.json", "deploy"),
        ("run/predictions.jsonl", "test-model"),
        ("run/deployment.json", "prove"),
        ("dataset/manifest.json", "train again"),
        ("dataset/images/.index.jsonl", "train again"),
        ("cache/*/part-*/index.json", "train again"),
        ("half/resume.safetensors", "resume"),
    ],
)
def test_what_was_written_before_there_were_checksums_is_still_read(made: Chain, artefact: str, verb: str) -> None:
    made.restore()
    path = next(made.root.glob(artefact))
    if path.suffix == ".safetensors":
        _unseal(path)
    else:
        sealed = path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in sealed.splitlines()] if path.suffix == ".jsonl" else [json.loads(sealed)]
        for row in rows:
            for place in (row, *(value for value in row.values() if isinstance(value, dict))):
                place.pop("checksum", None)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        assert "checksum" not in path.read_text(encoding="utf-8")
    assert made.call(verb) == 0
    assert verb != "train again" or (made.root / "again/training.json").exists()


def _unseal(path: Path) -> None:
    import mlx.core as mx

    tensors: Any = mx.load(str(path))
    notes = Shard.open(path).metadata or {}
    mx.eval(tensors)
    mx.save_safetensors(str(path), tensors, {name: notes[name] for name in ("format", "progress")})


def test_answers_that_somebody_replaced_are_asked_again(made: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    made.restore()
    path, before = made.run / "predictions.jsonl", made.left()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[0]["answer"], rows[1]["finish"] = "很好", "else"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert made.call("test-model") == 0
    said = capsys.readouterr().out
    assert "2 damaged answers; asked again" in said and "2 answers generated" in said, said
    assert made.left() == before


def test_a_folder_whose_receipt_cannot_be_written_is_taken_back(made: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    made.restore()
    folder = made.run / "lmstudio/medtune/small-v2"
    assert made.call("undeploy") == 0 and not folder.exists()

    def full(self: Receipt, path: Path) -> None:
        assert folder.exists()
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Receipt, "write", full)
        assert made.call("deploy") == 1
    assert not folder.exists() and not (made.run / "deployment.json").exists()
    assert made.call("deploy") == 0 and folder.exists()


def test_the_scale_of_a_finished_run_is_the_one_it_was_trained_with(made: Chain, capsys: Any) -> None:
    made.restore()
    path = made.run / "adapter_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"scale": 2.0', '"scale": 20.0'), encoding="utf-8")
    for verb in ("test-model", "chat", "deploy", "dry run", "prove"):
        capsys.readouterr()
        assert made.call(verb) == 1
        assert "adapter_config.json: changed since the training" in capsys.readouterr().err
