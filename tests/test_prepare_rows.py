"""prepare_data: every row is one record or one rejection that says why."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medtune.data.rejections import Rejected, rejections
from tests.preparing import Bench, talk, turns


@pytest.fixture
def bench(tmp_path: Path, demo_model: Path) -> Bench:
    return Bench(tmp_path, demo_model)


def test_every_row_is_either_one_record_or_one_rejection(bench: Bench) -> None:
    bench.write("a.jsonl", [talk(n) for n in range(40)] + [talk(3)] + [talk(n, messages=[]) for n in range(50, 54)])
    assert bench.run() == 0
    assert len(bench.all()) == 40
    assert Counter(reason for _, reason in bench.rejected()) == {"duplicate_id": 1, "empty": 4}


REJECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "blank answer": ("empty", {"messages": turns("问", " \n")}),
    "no assistant": ("no_assistant", {"messages": turns("问", "答")[:1]}),
    "question last": ("last_not_assistant", {"messages": [*turns("问", "答"), {"role": "user", "content": "再问"}]}),
    "two questions": ("roles", {"messages": [{"role": "user", "content": "问"}, *turns("问", "答")]}),
    "answer first": ("roles", {"messages": turns("问", "答")[::-1] + turns("问", "答")[1:]}),
    "late system": (
        "roles",
        {"messages": [*turns("问", "答"), {"role": "system", "content": "x"}, turns("a", "b")[1]]},
    ),
    "marker without image": ("image_markers", {"messages": turns("<image>看", "答")}),
    "image without marker": ("image_markers", {"images": ["ok.png"]}),
    "marker in the answer": ("image_markers", {"messages": turns("看", "<image>"), "images": ["ok.png"]}),
    "missing image": ("image_missing", {"messages": turns("<image>看", "答"), "images": ["gone.png"]}),
    "broken image": ("image_broken", {"messages": turns("<image>看", "答"), "images": ["broken.png"]}),
    "web image": ("image_url", {"messages": turns("<image>看", "答"), "images": ["https://example.org/a.png"]}),
    "span too far": ("span", {"spans": [{"start": 0, "end": 999, "weight": 2.0}]}),
    "empty span": ("fields", {"spans": [{"start": 2, "end": 2, "weight": 2.0}]}),
    "unknown dimension": ("fields", {"dim": "speed"}),
    "unknown key": ("layout", {"mood": "good"}),
    "telephone": ("privacy", {"messages": turns("我的电话13812345678", "好的")}),
    "too long": ("too_long", {"messages": turns("问", "血压" * 900)}),
}


def test_each_fault_has_its_reason_and_line_and_the_sound_rows_stay(bench: Bench) -> None:
    bench.image("ok.png")
    (bench.raw / "broken.png").write_bytes((bench.raw / "ok.png").read_bytes()[:60])
    sound = [talk(100 + n) for n in range(400)]  # enough for the layout to be recognised beside the faults
    faulty = [talk(n, **fields) for n, (_, fields) in enumerate(REJECTED.values())]
    bench.write("a.jsonl", sound + faulty)
    assert bench.run() == 0
    wanted = [(len(sound) + n, reason) for n, (reason, _) in enumerate(REJECTED.values(), 1)]
    assert sorted(bench.rejected()) == wanted
    assert len(bench.all()) == len(sound)


def test_personal_data_reach_neither_the_screen_nor_the_receipt(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "我叫李雷，身份证11010519491231002X"
    bench.write("a.jsonl", [talk(n) for n in range(30)] + [talk(99, messages=turns(secret, "好的"))])
    assert bench.run() == 0
    shown = capsys.readouterr()
    said = shown.out + shown.err + (bench.out / "manifest.json").read_text(encoding="utf-8")
    assert "李雷" not in said and "11010519491231002X" not in said
    assert "a.jsonl:31" in shown.out and "personal data" in shown.out
    assert secret in (bench.out / "rejected.jsonl").read_text(encoding="utf-8")
    assert not any("李雷" in record.to_json() for record in bench.all().values())


def test_privacy_off_keeps_them(bench: Bench) -> None:
    bench.write("a.jsonl", [talk(n, messages=turns(f"电话1381234567{n}", f"好的{n}")) for n in range(10)])
    assert bench.run("--set", "privacy=off") == 0
    assert len(bench.all()) == 10


def test_rows_of_an_array_on_one_line_have_ids_of_their_own(bench: Bench) -> None:
    rows = [{"instruction": f"丙{n}", "output": "请就医"} for n in range(5)]
    (bench.raw / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    assert bench.run() == 0
    assert set(bench.all()) == {f"raw/a:{n}" for n in range(1, 6)}


def test_ids_that_we_make_give_way_to_those_of_rows_and_only_these_may_not_repeat(bench: Bench) -> None:
    named = [None, 1, 3, None, 3]
    rows = [
        {"instruction": f"丙{n}", "output": "请就医"} | ({"id": name} if name else {}) for n, name in enumerate(named)
    ]
    bench.write("a.jsonl", rows + [{"instruction": f"丁{n}", "output": "好"} for n in range(9)])
    assert bench.run() == 0
    assert bench.rejected() == [(5, "duplicate_id")] and len(bench.all()) == 13
    assert {"raw/a:1", "raw/a:1~2", "raw/a:3", "raw/a:4"} <= bench.all().keys()


@pytest.mark.parametrize("lacking", [["id"], ["source"], ["id", "source"], []])
def test_own_rows_without_an_id_or_a_source_keep_what_they_say(bench: Bench, lacking: list[str]) -> None:
    rows = [talk(n, dim="warmth", label=0, cluster=f"p{n}") for n in range(20)]
    bench.write("a.jsonl", [{key: row[key] for key in row if key not in lacking} for row in rows])
    assert bench.run() == 0
    assert {(one.dim, one.label) for one in bench.all().values()} == {("warmth", 0)} and len(bench.all()) == 20
    assert {one.cluster for one in bench.all().values()} == {f"p{n}" for n in range(20)}


def test_own_keys_past_the_rows_that_decided_reject_their_rows_unless_the_layout_is_named(bench: Bench) -> None:
    plain = [{"messages": talk(n)["messages"]} for n in range(220)]
    path = bench.write("a.jsonl", [*plain, {"messages": talk(300)["messages"], "dim": "warmth"}])
    assert bench.run() == 0 and bench.rejected() == [(221, "layout")]
    bench.write("b.jsonl", [talk(1000)])
    for layout, dims in (("messages", {"accuracy"}), ("record", {"accuracy", "warmth"})):
        named = f"sources=[{{path: '{path}', layout: {layout}}}]"
        assert bench.run("--set", named, sources=[bench.raw / "b.jsonl"]) == 0
        assert bench.rejected() == [] and {one.dim for one in bench.all().values()} == dims


ODD: list[tuple[str, str]] = [
    ("json", '{"instruction": "半个\\ud83d", "output": "答"}'),
    ("json", '{"instruction": "半个", "output": "答", "images": ["\\ud83d.png"]}'),
    ("json", '{"instruction": "问", "output": "答", "n": ' + "7" * 5000 + "}"),
    ("json", '{"instruction": "问", "output": "答", "n": ' + "[" * 100_000 + "}"),
    ("json", '{"instruction": "问", "output": "答", "n": ' + "[" * 900 + "]" * 900 + "}"),
    ("fields", '{"instruction": ["问"], "output": "答"}'),
    ("fields", '{"instruction": "问", "input": ["x"], "output": "答"}'),
    ("fields", '{"instruction": "问", "output": "答", "history": 5}'),
    ("fields", '{"instruction": "问", "output": "答", "label": "bad"}'),
    ("image_missing", '{"instruction": "问", "output": "答", "images": ["a\\u0000.png"]}'),
    ("image_missing", '{"instruction": "问", "output": "答", "images": ["file://[bad"]}'),
    ("image_missing", '{"instruction": "问", "output": "答", "images": ["~nobody-here/x.png"]}'),
]


def test_no_odd_row_ends_the_tool_and_each_is_a_rejection_one_can_read(bench: Bench) -> None:
    path = bench.write("a.jsonl", [{"instruction": f"丙{n}", "output": "请就医"} for n in range(400)])
    with path.open("a", encoding="utf-8") as file:
        file.writelines(line + "\n" for _, line in ODD)
    assert bench.run() == 0
    assert sorted(bench.rejected()) == [(401 + n, reason) for n, (reason, _) in enumerate(ODD)]
    assert len(bench.all()) == 400


def test_whatever_a_row_holds_its_rejection_can_be_written_and_read(tmp_path: Path) -> None:
    with rejections(tmp_path / "rejected.jsonl") as rejected:
        rejected.add(Path("a.jsonl"), 1, Rejected("fields", "\ud83d"), {"a\ude00": "\ud83d"})
    (line,) = (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["row"] == {"a\ude00": "\ud83d"} and json.loads(line)["detail"] == "\ud83d"


@pytest.mark.parametrize("weight", ["Infinity", "NaN"])
def test_a_weight_without_end_is_rejected(bench: Bench, weight: str) -> None:
    path = bench.write("a.jsonl", [talk(n) for n in range(400)])
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(talk(500, weight=1.5)).replace("1.5", weight) + "\n")
        span = {"start": 0, "end": 1, "weight": 1.5}
        file.write(json.dumps(talk(501, spans=[span])).replace("1.5", weight) + "\n")
    assert bench.run() == 0 and bench.rejected() == [(401, "fields"), (402, "fields")]


def test_a_system_prompt_is_put_before_conversations_that_have_none(bench: Bench) -> None:
    own = [{"role": "system", "content": "自己的"}, *turns("问", "答")]
    bench.write("a.jsonl", [talk(n) for n in range(10)] + [talk(50, messages=own)])
    assert bench.run("--set", "system_prompt=你是医生") == 0
    prompts = {name: record.messages[0].content for name, record in bench.all().items()}
    assert prompts.pop("r50") == "自己的" and set(prompts.values()) == {"你是医生"}


def test_off_means_off_in_the_file_too(bench: Bench) -> None:
    bench.config.write_text(bench.config.read_text().replace("privacy: reject", "privacy: off"))
    bench.write("a.jsonl", [talk(n, messages=turns(f"电话1381234567{n}", f"好的{n}")) for n in range(10)])
    assert bench.run() == 0 and len(bench.all()) == 10
