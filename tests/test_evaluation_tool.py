"""tools/test_v2_model.py as a person runs it: on a small model with real generation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageDraw

from medtune import cli, files
from medtune.dataset import Dataset
from medtune.errors import UserError
from medtune.evaluation import items
from medtune.receipt import Receipt
from medtune.run import Run
from tests.deployed import write_run
from tests.workshop import SETTINGS, write_dataset
from tools import make_report, test_v2_model

EVAL: dict[str, Any] = {
    "max_tokens": 6,
    "batch_size": 8,
    "max_items": 2,
    "seed": 0,
    "gate": {"accuracy": -1.0, "warmth": -1.0, "vision": -1.0, "superior": 0, "pass_rate": {}},
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, dense_twin: Path, root: Path) -> Path:
    """A folder with data, a run on the twin, the bench and eval.yaml."""
    folder = tmp_path_factory.mktemp("evaluation")
    shutil.copytree(write_dataset(folder / "made", dense_twin), folder / "data")
    write_run(folder / "run", dense_twin, size=0.5)
    dataset = {"path": "data", "hash": Dataset.open(folder / "data").hash}
    receipt = files.read_json(folder / "run/training.json")
    receipt["results"]["dataset"] = dataset
    receipt["config"] = SETTINGS
    files.write_json(folder / "run/training.json", receipt)
    shutil.copytree(root / "data/bench", folder / "bench")
    (folder / "eval.yaml").write_text(yaml.safe_dump({"bench": str(folder / "bench"), **EVAL}), encoding="utf-8")
    return folder


@pytest.fixture
def place(workplace: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    copy = tmp_path / "place"
    shutil.copytree(workplace, copy)
    settings = yaml.safe_load((copy / "eval.yaml").read_text(encoding="utf-8"))
    (copy / "eval.yaml").write_text(yaml.safe_dump({**settings, "bench": str(copy / "bench")}), encoding="utf-8")
    return copy


def evaluate(place: Path, *more: str) -> int:
    return cli.call(
        test_v2_model.main, [str(place / "run"), str(place / "data"), "--config", str(place / "eval.yaml"), *more]
    )


def talk(place: Path, *more: str) -> int:
    return cli.call(test_v2_model.main, [str(place / "run"), "--config", str(place / "eval.yaml"), *more])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many prompts each call of the generator got."""
    from medtune.evaluation import answering

    calls: list[int] = []
    real: Callable[..., Any] = answering.generate

    def counting(model: Any, renderer: Any, prompts: Any, **settings: Any) -> Any:
        calls.append(len(prompts))
        return real(model, renderer, prompts, **settings)

    monkeypatch.setattr(answering, "generate", counting)
    yield calls


def test_both_models_answer_every_item_and_the_receipt_says_what_was_measured(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(place) == 0
    rows = [row for _, row in files.read_jsonl(place / "run/predictions.jsonl")]
    receipt = Receipt.read(place / "run/evaluation.json")
    results = receipt.results
    assert {row["model"] for row in rows} == {"baseline", "tuned"}
    assert len(rows) == 2 * (results["items"] + 5)
    for row in rows:
        assert row["finish"] == "length" and row["tokens"] == 6
        assert row["split"] in ("test", "recommended") and row["prompt"][-1]["role"] == "user"
    assert set(results["dimensions"]) == {"accuracy", "warmth", "vision"}
    assert all(numbers["n"] == 2 for numbers in results["dimensions"].values())
    assert results["recommended"][0]["id"] == "recommended-blood-pressure"
    assert results["recommended"][3]["image"].endswith("recommended_chest.png")
    assert results["baseline"]["kind"] == "base"
    assert results["gate"] == {"passed": True, "failures": [], "unmeasured": []}
    assert results["tokens_per_sec"] > 0
    assert receipt.inputs["adapters.safetensors"] == files.sha256(place / "run/adapters.safetensors")
    assert receipt.inputs["test.jsonl"] == files.sha256(place / "data/test.jsonl")
    assert receipt.outputs["predictions.jsonl"] == files.sha256(place / "run/predictions.jsonl")
    screen = capsys.readouterr().out
    assert "accuracy" in screen and "recommended-lab-sheet" in screen and "gate: passed" in screen


def test_adapters_change_answers_and_scaling_them_to_zero_gives_the_base_model(place: Path, dense_twin: Path) -> None:
    from medtune.model.base import Base
    from medtune.model.generation import generate
    from medtune.model.renderer import Renderer
    from medtune.records import Message

    assert evaluate(place) == 0
    rows = [row for _, row in files.read_jsonl(place / "run/predictions.jsonl")]
    base = Base.find(str(dense_twin))
    renderer, model = Renderer(base), base.load()
    of_base = {row["id"]: row for row in rows if row["model"] == "baseline"}
    prompts = [
        renderer.prompt([Message(**turn) for turn in row["prompt"]], [Path(image) for image in row["images"]])
        for row in of_base.values()
    ]
    batches = generate(model, renderer, prompts, max_tokens=6, batch_size=1)
    plain = {answer.index: answer.text for batch in batches for answer in batch}
    assert [row["answer"] for row in of_base.values()] == [plain[index] for index in range(len(prompts))]
    tuned = {row["id"]: row["answer"] for row in rows if row["model"] == "tuned"}
    assert any(tuned[name] != row["answer"] for name, row in of_base.items())


def test_a_second_call_does_nothing_and_edited_checks_are_scored_without_generating(
    place: Path, counted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(place) == 0
    made = len(counted)
    first = Receipt.read(place / "run/evaluation.json").results
    assert evaluate(place) == 0
    assert "already done" in capsys.readouterr().out
    bench = place / "bench" / items.BENCH
    cases = [json.loads(line) for line in bench.read_text(encoding="utf-8").splitlines()]
    cases[0]["checks"] = [{"kind": "disclaimer"}]
    bench.write_text("".join(json.dumps(case, ensure_ascii=False) + "\n" for case in cases), encoding="utf-8")
    assert evaluate(place) == 0
    second = Receipt.read(place / "run/evaluation.json").results
    assert len(counted) == made
    assert second["recommended"][0]["checks"] == {"disclaimer": {"baseline": 1.0, "tuned": 1.0}}
    assert second["recommended"][0]["tuned"] == first["recommended"][0]["tuned"]
    assert second["tokens_per_sec"] == first["tokens_per_sec"]


def test_a_run_killed_between_batches_goes_on_where_it_was(
    place: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medtune.evaluation.predictions import Predictions

    save, saved = Predictions.save, [0]

    def killed(self: Predictions, *args: Any) -> None:
        save(self, *args)
        saved[0] += 1
        if saved[0] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Predictions, "save", killed)
        assert evaluate(place) == 130
    assert not (place / "run/evaluation.json").exists()
    assert len(list(files.read_jsonl(place / "run/predictions.jsonl"))) == 11  # a batch of 8, then the other 3
    assert evaluate(place) == 0
    assert counted[-1] == 11  # only the baseline's were missing


def test_retrained_adapters_are_asked_again_and_the_base_is_not(
    place: Path, counted: list[int], dense_twin: Path
) -> None:
    assert evaluate(place) == 0
    kept = files.read_json(place / "run/training.json")
    write_run(place / "run", dense_twin, size=0.3)
    files.write_json(place / "run/training.json", kept)
    counted.clear()
    assert evaluate(place) == 0
    assert counted == [11]


def test_another_run_can_be_the_baseline(place: Path, dense_twin: Path, moe_twin: Path, capsys: Any) -> None:
    write_run(place / "v1", dense_twin, size=0.3)
    assert evaluate(place, "--baseline", str(place / "v1")) == 0
    results = Receipt.read(place / "run/evaluation.json").results
    assert results["baseline"] == {"kind": "run", "path": str(place / "v1")}
    assert any(case["baseline"] != case["tuned"] for case in results["recommended"])
    write_run(place / "other", moe_twin)
    assert evaluate(place, "--baseline", str(place / "other")) == 1
    assert "compare runs of one base model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda place: (place / "run/training.json").unlink(), "adapters that were not trained here"),
        (lambda place: _edit(place / "run/training.json", "dataset", {"path": "d", "hash": "x"}), "not the data set"),
        (lambda place: _edit(place / "run/training.json", "base_model", hash="x"), "not the weights"),
        (lambda place: (place / "bench/recommended.jsonl").unlink(), "set bench in eval.yaml"),
        (lambda place: (place / "bench/images/recommended_cbc.png").unlink(), "line 5: "),
        (lambda place: _break_check(place), "no such check"),
    ],
)
def test_what_a_person_can_fix_is_one_message_before_the_model_is_loaded(
    place: Path, counted: list[int], capsys: Any, break_it: Callable[[Path], None], words: str
) -> None:
    break_it(place)
    assert evaluate(place) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error
    assert counted == []


def _edit(path: Path, key: str, value: dict[str, Any] | None = None, **changes: Any) -> None:
    receipt = files.read_json(path)
    receipt["results"][key] = {**receipt["results"][key], **(value or {}), **changes}
    files.write_json(path, receipt)


def _break_check(place: Path) -> None:
    path = place / "bench" / items.BENCH
    path.write_text(path.read_text(encoding="utf-8").replace('"referral"', '"refferal"'), encoding="utf-8")


def test_all_that_is_wrong_in_the_bench_is_named_at_once_with_its_line(
    place: Path, counted: list[int], capsys: Any
) -> None:
    asked, answered = {"role": "user", "content": "<image>？"}, {"role": "assistant", "content": "是"}
    Image.new("RGB", (64, 64)).save(place / "bench/whole.jpg")
    (place / "bench/cut.jpg").write_bytes((place / "bench/whole.jpg").read_bytes()[:-300])
    rows = [
        {"messages": [asked, answered], "images": ["cut.jpg"]},
        {"messages": [{"role": "user", "content": "？"}]},
        {"messages": []},
        [1],
        {"messages": [asked, answered]},
        {"messages": [asked, answered], "images": ["images"]},
        {"messages": [asked, answered], "images": ["whole.jpg"], "expect": 1},
        {"messages": [asked, answered], "images": ["whole.jpg"]},
    ]
    named = [{"id": str(n), "source": "me", **row} if isinstance(row, dict) else row for n, row in enumerate(rows)]
    lines = [json.dumps(row, ensure_ascii=False) for row in named]
    (place / "bench" / items.BENCH).write_text("\n".join([*lines, "{"]), encoding="utf-8")
    assert evaluate(place) == 1
    error = capsys.readouterr().err
    assert f"{items.BENCH}: 8 problems" in error
    for words in (
        "line 1: cut.jpg: not an image one can open",
        "line 2: messages must end with the user's question and the reference answer",
        "line 3: messages must end",
        "line 4: not a JSON object",
        "line 5: 1 <image> markers for 0 images",
        "line 6: images: no such image",
        "line 7: expect: Input should be a valid string",
        "line 9: not JSON",
    ):
        assert words in error
    assert counted == []


def test_a_bench_saved_by_a_chinese_editor_is_read_as_any_data_is(place: Path) -> None:
    path = place / "bench" / items.BENCH
    before = items.of_bench(place / "bench", "")
    path.write_text(path.read_text(encoding="utf-8").replace("℃", "度"), encoding="gb18030")
    assert [item.question for item in items.of_bench(place / "bench", "")] == [item.question for item in before]


def test_an_empty_bench_asks_the_test_split_alone(place: Path) -> None:
    (place / "bench" / items.BENCH).write_text("\n", encoding="utf-8")
    assert evaluate(place) == 0
    assert Receipt.read(place / "run/evaluation.json").results["recommended"] == []


def test_no_bench_is_needed_by_evaluation_review_screen_and_report(place: Path, capsys: Any) -> None:
    shutil.rmtree(place / "bench")
    assert evaluate(place, "--set", "bench=null") == 0
    assert evaluate(place, "--set", "bench=null") == 0 and "already done" in capsys.readouterr().out
    receipt = Receipt.read(place / "run/evaluation.json")
    assert receipt.config["bench"] is None and receipt.results["recommended"] == [] and receipt.results["items"] > 0
    assert evaluate(place, "--set", "bench=null", "--review") == 0 and (place / "run/review.csv").exists()
    for lang in ("zh", "en"):
        assert cli.call(make_report.main, [str(place / "run"), "--out", str(place / lang), "--lang", lang]) == 0
        assert (place / lang / "REPORT.html").exists()


def test_a_broken_image_of_the_data_set_is_one_line(place: Path, counted: list[int], capsys: Any) -> None:
    vision = next(row for _, row in files.read_jsonl(place / "data/test.jsonl") if row.get("images"))
    image = place / "data" / vision["images"][0]
    image.write_bytes(image.read_bytes()[:-20])
    assert evaluate(place) == 1
    error = capsys.readouterr().err
    assert image.name in error and "make data" in error and counted == []


def test_the_recommended_references_satisfy_all_their_own_checks(root: Path) -> None:
    from medtune import checks

    cases = items.of_bench(root / "data/bench", "你是一名医生")
    assert len(cases) == 5
    items.check_checks(cases)
    for case in cases:
        assert case.expect
        assert case.prompt[0].role == "system"
        assert {check.kind: checks.score(check, case.reference) for check in case.checks} == {
            check.kind: 1.0 for check in case.checks
        }


def test_items_are_drawn_by_seed_and_each_prompt_is_asked_once(place: Path) -> None:
    dataset = Dataset.open(place / "data")
    everything = items.of_test(dataset, None, 0)
    assert len({(item.prompt, item.images) for item in everything}) == len(everything)
    drawn = [items.of_test(dataset, 2, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 6


def test_the_base_answers_as_itself_beside_adapters_that_cannot_be_switched_off(place: Path, dense_twin: Path) -> None:
    assert evaluate(place) == 0
    before = _answers(place, "baseline")
    kept = files.read_json(place / "run/training.json")
    write_run(place / "run", dense_twin, size=0.5, dora=True)
    files.write_json(place / "run/training.json", kept)
    (place / "run/predictions.jsonl").unlink()
    assert evaluate(place) == 0
    assert _answers(place, "baseline") == before != _answers(place, "tuned")


def _answers(place: Path, model: str) -> list[str]:
    rows = [row for _, row in files.read_jsonl(place / "run/predictions.jsonl")]
    return [row["answer"] for row in rows if row["model"] == model]


def test_the_tool_answers_help_without_mlx(root: Path) -> None:
    import subprocess
    import sys

    code = "import sys; from tools import test_v2_model; sys.exit('mlx' in sys.modules or 'mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


# --- talking


def test_one_question_with_an_image_is_answered_without_a_data_set(place: Path, capsys: Any) -> None:
    image = place / "bench/images/recommended_cbc.png"
    assert talk(place, "--prompt", "这张图？", "--image", str(image)) == 0
    with_image = capsys.readouterr().out
    assert talk(place, "--prompt", "这张图？") == 0
    assert with_image.strip() and with_image != capsys.readouterr().out


def drawn(edge: int, mode: str = "RGB") -> Image.Image:
    """A picture that looks different when it is turned."""
    picture = Image.new(mode, (edge, edge // 2), 0)
    ImageDraw.Draw(picture).rectangle((0, 0, edge // 3, edge // 5), fill=(250, 40, 90, 255)[: len(mode)])
    return picture


@pytest.mark.parametrize("kind", ["turned", "transparent", "large"])
def test_an_image_in_a_conversation_is_seen_as_after_prepare_data(
    place: Path, kind: str, monkeypatch: pytest.MonkeyPatch, dense_twin: Path
) -> None:
    from medtune.data.imagestore import ImageStore, Picture
    from medtune.evaluation.chat import Conversation
    from medtune.model.base import Base
    from medtune.model.renderer import Renderer

    path = place / {"turned": "photo.jpg", "transparent": "scan.png", "large": "film.png"}[kind]
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the camera was held upright
    if kind == "turned":
        drawn(128).save(path, exif=exif)
    else:
        drawn(128, "RGBA").save(path) if kind == "transparent" else drawn(700).save(path)
    store, picture = ImageStore(place / "data", 256), Picture(str(path), path)
    store.add([picture])
    monkeypatch.chdir(place)  # training.json names the data set as the person did
    base = Base.find(str(dense_twin))
    talking = Conversation(base, Run(place / "run"), "", 4)
    asked: list[Any] = []
    real = talking.renderer.prompt
    monkeypatch.setattr(talking.renderer, "prompt", lambda *parts: asked.append(real(*parts)) or asked[-1])
    talking.show(path)
    assert "".join(talking.say("？")) is not None
    trained = Renderer(base)
    prepared = trained.prompt(talking.turns[:1], [place / "data" / store.get(picture).name])
    assert asked[0].tokens.tolist() == prepared.tokens.tolist()
    for seen, learned in zip(talking.renderer.pixels(asked[0]), trained.pixels(prepared), strict=True):
        assert seen is not None and learned is not None and (seen == learned).all()


def test_without_its_data_set_a_run_takes_images_as_large_as_they_are(place: Path, dense_twin: Path) -> None:
    from medtune.model.base import Base
    from medtune.model.renderer import Renderer

    drawn(320).save(place / "film.png")
    renderer = Renderer(Base.find(str(dense_twin)), Run(place / "run").max_image_edge)  # whose data set is not under it
    _edit(place / "run/training.json", "dataset", {"path": str(place / "data")})
    bounded = Renderer(renderer.base, Run(place / "run").max_image_edge)
    assert renderer.image_tokens(place / "film.png") > bounded.image_tokens(place / "film.png")
    receipt = files.read_json(place / "run/training.json")
    del receipt["results"]["dataset"]  # as of an adapter that was imported
    files.write_json(place / "run/training.json", receipt)
    assert Renderer(renderer.base, Run(place / "run").max_image_edge).max_edge == renderer.max_edge


def test_a_broken_image_is_one_line(place: Path, capsys: Any) -> None:
    (place / "broken.png").write_bytes(b"no image")
    assert talk(place, "--prompt", "？", "--image", str(place / "broken.png")) == 1
    assert "broken.png: not an image one can open" in capsys.readouterr().err


def conversation(place: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str | BaseException]) -> int:
    said = iter(lines)

    def read(prompt: str) -> str:
        line = next(said)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    return talk(place, "--cli")


def test_a_conversation_toggles_the_adapter_and_says_once_that_it_is_no_doctor(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lines: list[str | BaseException] = [
        "血压高吗",
        "/reset",
        "/base",
        "血压高吗",
        "/reset",
        "/base",
        "血压高吗",
        "/quit",
    ]
    assert conversation(place, monkeypatch, lines) == 0
    screen = capsys.readouterr().out
    assert screen.count("Not a doctor") == 1
    answers = [line for line in screen.splitlines() if line and not _of_the_program(line)]
    assert answers[0] == answers[2] != answers[1]


def _of_the_program(line: str) -> bool:
    return line.startswith(("mlx ", "Not a", "/image", "a new", "the ", "shown", "/quit"))


def test_the_conversation_ends_with_the_input_and_survives_wrong_commands(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lines: list[str | BaseException] = ["/image nope.png", "/nonsense", "", KeyboardInterrupt(), EOFError()]
    assert conversation(place, monkeypatch, lines) == 0
    screen = capsys.readouterr().out
    assert "nope.png" in screen and "/nonsense: no such command" in screen and "/quit ends" in screen


def broken(place: Path, kind: str) -> Path:
    path = place / f"{kind}.png"
    if kind == "cut":
        drawn(300).save(path, "JPEG")
        path.write_bytes(path.read_bytes()[:-200])
    else:
        Image.new("1", {"narrow": (1, 300), "bomb": (20000, 20000)}[kind]).save(path)
    return path


@pytest.mark.parametrize("kind", ["cut", "narrow", "bomb"])
def test_a_conversation_goes_on_after_an_image_nobody_can_see(
    place: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = broken(place, kind)
    assert conversation(place, monkeypatch, [f"/image {path}", "血压高吗", "/quit"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(f"{path}: not an image one can open" in line for line in lines) == 1
    assert [line for line in lines if line and not _of_the_program(line) and not line.startswith(str(path))]
    assert talk(place, "--prompt", "？", "--image", str(path)) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_an_image_that_went_away_before_the_question_is_one_line_and_the_question_was_not_asked(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from medtune.evaluation.chat import Conversation
    from medtune.model.base import Base

    image = place / "gone.png"
    drawn(64).save(image)
    lines: Iterator[str] = iter([f"/image {image}", "这是什么", "血压高吗", "/quit"])

    def read(prompt: str) -> str:
        line = next(lines)
        if line == "这是什么":
            image.unlink()
        return line

    monkeypatch.setattr("builtins.input", read)
    assert talk(place, "--cli") == 0
    assert capsys.readouterr().out.count("gone.png: not an image one can open (No such file or directory)") == 1
    talking = Conversation(Base.find(Receipt.read(place / "run/training.json").results["base_model"]["name"]),
                       Run(place / "run"), "", 4)  # fmt: skip
    drawn(64).save(image)
    talking.show(image)
    image.unlink()
    with pytest.raises(UserError):
        next(iter(talking.say("这是什么")))
    assert talking.turns == [] and talking.images == [] and talking.waiting == []


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("数据 一/图 1.png", "数据\\ 一/图\\ 1.png"),
        ("数据 一/图 1.png", "'数据 一/图 1.png' "),
        ("数据 一/图 1.png", "数据 一/图 1.png"),
        ("it's.png", "it's.png"),
    ],
)
def test_an_image_is_found_however_its_path_is_typed_quoted_or_dragged_in(
    place: Path, name: str, typed: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (place / name).parent.mkdir(exist_ok=True)
    drawn(64).save(place / name)
    monkeypatch.chdir(place)
    assert conversation(place, monkeypatch, [f"/image {typed}", "/quit"]) == 0
    assert "shown with your next question" in capsys.readouterr().out


def test_no_path_one_can_type_ends_the_conversation(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    typed = ["~nobody/x.png", "图" * 300, "''", "\0", str(place)]
    assert conversation(place, monkeypatch, [*(f"/image {path}" for path in typed), "/quit"]) == 0
    assert capsys.readouterr().out.count("no such file") == len(typed)


def test_ctrl_c_stops_the_answer_and_not_the_program(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from medtune.evaluation import chat

    real, calls = chat.stream, [0]

    def interrupted(*args: Any, **settings: Any) -> Iterator[str]:
        calls[0] += 1
        for number, piece in enumerate(real(*args, **settings)):
            if calls[0] == 1 and number == 1:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(chat, "stream", interrupted)
    assert conversation(place, monkeypatch, ["一", "二", "/quit"]) == 0
    assert "[stopped]" in capsys.readouterr().out
    assert calls[0] == 2


def test_a_conversation_remembers_turns_and_images(place: Path) -> None:
    from medtune.evaluation.chat import Conversation
    from medtune.model.base import Base

    name = Receipt.read(place / "run/training.json").results["base_model"]["name"]
    talking = Conversation(Base.find(name), Run(place / "run"), "", 4)
    talking.show(place / "bench/images/recommended_cbc.png")
    first = "".join(talking.say("这是什么"))
    again = "".join(talking.say("然后呢"))
    assert [turn.role for turn in talking.turns] == ["user", "assistant", "user", "assistant"]
    assert talking.turns[0].content == "<image>这是什么" and len(talking.images) == 1
    assert talking.turns[1].content == first.strip() and talking.turns[3].content == again.strip()
    talking.forget()
    assert "".join(talking.say("然后呢")) != again


# --- reviews by people


def test_a_review_sheet_is_written_and_read_back(place: Path, capsys: Any) -> None:
    import csv

    assert evaluate(place, "--review") == 1
    assert "run `make test-model RUN=" in capsys.readouterr().err
    assert evaluate(place) == 0
    assert evaluate(place, "--review") == 0
    path = place / "run/review.csv"
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows({**row, "better": "1"} for row in rows)
    capsys.readouterr()
    assert evaluate(place, "--review", str(path)) == 0
    assert f"{len(rows)} reviewed" in capsys.readouterr().out
    assert len(list(files.read_jsonl(place / "run/reviews.jsonl"))) == len(rows)
