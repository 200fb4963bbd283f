"""Nothing leaves: every tool in a process of its own, on data sown with a patient's values, in a home with a name."""

from __future__ import annotations

import json
import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from medtune import files
from medtune.outgoing.chain import Chain
from medtune.outgoing.watch import PROXIES, Lookout, watching
from tests.workshop import DATA_SETTINGS, question, settings_file

PERSON = "zhuge_kongming"  # whose machine it is
SAID, ANSWERED, FILE, FOLDER, FIELD, LOST = (
    f"{name}{number}"
    for name, number in (
        ("欧阳霁月", "13987650001"),
        ("司徒澹台", "13987650002"),
        ("端木青禾", "13987650003"),
        ("皇甫听澜", "13987650004"),
        ("令狐望舒", "13987650005"),
        ("尉迟疏影", "13987650006"),
    )
)
SOWN = (SAID, ANSWERED, FILE, FOLDER, FIELD, LOST)
HOLDS_ROWS = (
    "train.jsonl",
    "valid.jsonl",
    "test.jsonl",
    "rejected.jsonl",
    "sources.jsonl",
    ".index.jsonl",
    "predictions.jsonl",
    "review.csv",
)
RECEIPTS = (
    "manifest.json",
    "training.json",
    "evaluation.json",
    "deployment.json",
    "REPORT.md",
    "REPORT.html",
    "README.md",
)


@dataclass(frozen=True)
class Made:
    """What the chain left: its folders, all that was printed, and the watch."""

    home: Path
    chain: Chain
    said: dict[str, str]
    codes: dict[str, int]
    watch: Lookout

    @property
    def files(self) -> list[Path]:
        return [path for path in sorted(self.chain.out.rglob("*")) if path.is_file()]


def sow(folder: Path) -> None:
    """Rows of our own layout with a patient's values wherever a text may stand, and some that are rejected."""
    (folder / "images").mkdir(parents=True)
    rng = random.Random(0)
    rows = []
    for index in range(42):
        row = json.loads(question(index, rng, folder).to_json())
        row |= {"id": f"{FIELD}-{index}", "source": FIELD, "cluster": f"{FIELD}-{index % 20}", "department": FIELD}
        row["messages"][0]["content"] += f"，我是{SAID}"
        row["messages"][-1]["content"] += ANSWERED
        row["spans"] = []
        rows.append(row)
    for row in rows:
        for place, name in enumerate(row.get("images", [])):
            named = f"images/{FILE}-{Path(name).name}"
            os.rename(folder / name, folder / named)
            row["images"][place] = named
    rows += [
        {**rows[0], "id": f"{LOST}-1", "messages": [{"role": LOST, "content": LOST}]},
        {**rows[1], "images": [LOST]},
    ]
    files.write_jsonl(folder / f"{FILE}.jsonl", [json.dumps(row, ensure_ascii=False) for row in rows])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Iterator[Made]:
    """The chain, once, with every path under the home."""
    home = tmp_path_factory.mktemp("users") / PERSON
    configs, raw, out = home / "configs", home / "raw" / FOLDER, home / "out"
    sow(raw)
    configs.mkdir()
    settings_file(configs / "train.yaml", demo_model)
    gate = {"accuracy": -1.0, "warmth": -1.0, "vision": -1.0, "superior": 0, "pass_rate": {}}
    bench = str(Path(__file__).parents[1] / "data" / "bench")
    settings = {
        "data": DATA_SETTINGS | {"tokenizer": str(demo_model), "sources": [{"path": str(raw.parent)}]},
        "eval": {"bench": bench, "max_tokens": 4, "batch_size": 8, "max_items": 2, "seed": 0, "gate": gate},
        "deploy": {
            "publisher": "medtune",
            "name": "tiny",
            "precision": "bf16",
            "system_prompt": "training",
            "home": "",
        },
    }
    for stage, values in settings.items():
        (configs / f"{stage}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    chain = Chain(configs, demo_model, out)
    with watching(home / "watched.jsonl") as watch:
        done = {name: watch.run(command, HOME=str(home), MEDTUNE_LANG="en") for name, command in chain.commands()}
        said = {name: one.stdout + one.stderr for name, one in done.items()}
        yield Made(home, chain, said, {name: one.returncode for name, one in done.items()}, watch)


@pytest.mark.slow("runs every tool in a process of its own")
def test_no_tool_and_no_child_of_one_speaks_to_another_machine_or_to_a_proxy(made: Made) -> None:
    assert {name: made.said[name] for name, code in made.codes.items() if code} == {}
    assert made.watch.left == [] and made.watch.asked == []
    assert made.watch.processes > len(made.codes)
    shown = [" ".join(row["process"]) for row in made.watch.rows if row["event"] == "process"]
    for child in ("probe.py", "mlx.launch", "runner"):
        assert any(child in command for command in shown), child


@pytest.mark.slow("runs every tool in a process of its own")
def test_a_patients_values_stand_only_where_rows_and_answers_are_kept(made: Made) -> None:
    found = {}
    for path in made.files:
        text = path.read_bytes()
        seen = {
            value for value in SOWN if any(form in text for form in (value.encode(), json.dumps(value)[1:-1].encode()))
        }
        seen -= set(SOWN) if path.name in HOLDS_ROWS else {SAID, ANSWERED} if path.parent.name == "report" else set()
        if seen or any(value in str(path) for value in SOWN):
            found[str(path)] = seen
    assert found == {}
    said = {name: [value for value in SOWN if value in text] for name, text in made.said.items()}
    places = {FILE, FOLDER}  # a message says which file it is about
    assert {name: values for name, values in said.items() if set(values) - places} == {}
    assert [name for name, values in said.items() if values] == ["prepare_data"]


@pytest.mark.slow("runs every tool in a process of its own")
def test_no_receipt_report_or_card_names_the_person(made: Made) -> None:
    written = [path for path in made.files if path.name in RECEIPTS and "bench" not in path.parts]
    assert len(written) >= len(RECEIPTS)
    assert [str(path) for path in written if PERSON in path.read_text(encoding="utf-8")] == []
    assert "~/out/data" in (made.chain.run / "training.json").read_text(encoding="utf-8")


@pytest.mark.slow("runs every tool in a process of its own")
def test_what_the_tools_write_is_for_its_owner_alone(made: Made) -> None:
    open_to_others = [str(path) for path in made.chain.out.rglob("*") if stat.S_IMODE(path.lstat().st_mode) & 0o077]
    assert [path for path in open_to_others if not Path(path).is_symlink()] == [str(made.chain.out / "lmstudio")]


# --- the watch itself

LEAVES = {
    "connect": "import socket; socket.socket().connect(('192.0.2.1', 80))",
    "name": "import socket; socket.getaddrinfo('example.com', 80)",
    "datagram": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    "listening": "import socket; socket.create_server(('0.0.0.0', 0))",
    "listening everywhere": "import socket; socket.socket().bind(('', 0))",
    "six": "import socket; socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
    "child": "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', "
    "\"import socket; socket.socket().connect(('192.0.2.1', 80))\"]).returncode)",
    "hub": "from huggingface_hub import HfApi; HfApi(endpoint='http://192.0.2.1').model_info('a/b')",
}


@pytest.mark.parametrize("how", LEAVES)
def test_the_watch_sees_and_refuses_each_way_out(how: str, tmp_path: Path) -> None:
    with watching(tmp_path / "watched.jsonl") as watch:
        environment = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", *PROXIES, *map(str.upper, PROXIES)), "")
        assert watch.run(["-c", LEAVES[how]], **environment).returncode
    assert len(watch.left) >= 1


def test_the_proxy_writes_down_who_heeds_it(tmp_path: Path) -> None:
    ask = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/patient')"
    with watching(tmp_path / "watched.jsonl") as watch:
        assert watch.run(["-c", ask]).returncode
    assert [one[:30] for one in watch.asked] == [b"GET http://127.0.0.1:9/patient"] and watch.left == []


@pytest.mark.parametrize("said", ["", "0", "1"])
def test_hugging_faces_libraries_are_offline_whatever_the_environment_says(said: str, tmp_path: Path) -> None:
    ask = (
        "import medtune; from huggingface_hub import HfApi, constants; assert constants.HF_HUB_DISABLE_TELEMETRY; "
        "HfApi(endpoint='http://192.0.2.1').model_info('a/b')"
    )
    with watching(tmp_path / "watched.jsonl") as watch:
        done = watch.run(["-c", ask], HF_HUB_OFFLINE=said, TRANSFORMERS_OFFLINE=said)
    assert "OfflineModeIsEnabled" in done.stderr and watch.left == [] and watch.asked == []


def test_only_the_download_that_was_asked_for_is_online(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    from medtune.errors import UserError
    from medtune.model.base import Base

    seen = []

    def snapshot(name: str, **how: object) -> str:
        seen.append((bool(how.get("local_files_only")), constants.is_offline_mode()))
        raise OSError("no network here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr("medtune.model.hub.folder", lambda name: None)
    with pytest.raises(UserError, match="no such model"):
        Base.find("a/b")
    assert seen == []
    monkeypatch.setenv("MEDTUNE_ALLOW_DOWNLOAD", "1")
    with pytest.raises(UserError, match="download failed"):
        Base.find("a/b")
    assert seen == [(False, False)] and constants.is_offline_mode()
