"""Every option of every tool is honoured, or refused in one line; none is silently left aside."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from medtune import cli

BAD = ("0", "-1", "nan", "inf", "x")
REFUSED = [
    ("train_final", "DATA --config c --out o --plan --hosts 2", "--plan takes no --hosts"),
    ("train_final", "DATA --config c --out o --plan --cache x", "--plan takes no --cache"),
    ("train_final", "DATA --config c --out o --hosts", "argument --hosts: expected one argument"),
    ("test_v2_model", "RUN --cli --baseline other", "--cli takes no --baseline"),
    ("test_v2_model", "RUN --prompt hello --baseline other", "--prompt takes no --baseline"),
    ("test_v2_model", "RUN --cli --review", "--cli takes no --review"),
    ("test_v2_model", "RUN --prompt= --review sheet.csv --baseline x", "--prompt takes no --baseline, --review"),
    ("test_v2_model", "RUN --image a.png", "--image is for --prompt, --cli only"),
    ("test_v2_model", "RUN --review --image a.png", "--image is for --prompt, --cli only"),
    ("monitor_training", "RUN --once --web", "--once takes no --web"),
    ("monitor_training", "RUN --once --port 1", "--once takes no --port"),
    ("monitor_training", "RUN --port 1", "--port is for --web only"),
    ("deploy_to_lmstudio", "RUN --dry-run --pinned", "--dry-run takes no --pinned"),
    ("deploy_to_lmstudio", "RUN --rollback --pinned", "--rollback takes no --pinned"),
    ("deploy_to_lmstudio", "RUN --undeploy --pinned", "--undeploy takes no --pinned"),
    ("deploy_to_lmstudio", "--inspect x --pinned", "--inspect takes no --pinned"),
    ("deploy_to_lmstudio", "RUN --export hf x --pinned", "--export takes no --pinned"),
    ("deploy_to_lmstudio", "RUN --dry-run --allow-remote-server", "--dry-run takes no --allow-remote-server"),
    ("deploy_to_lmstudio", "RUN --prove --allow-failed-gate", "--prove takes no --allow-failed-gate"),
    ("deploy_to_lmstudio", "RUN --rollback --allow-failed-gate", "--rollback takes no --allow-failed-gate"),
    ("deploy_to_lmstudio", "RUN --inspect x --config c --set a=b", "--inspect takes no RUN, --config, --set"),
    ("deploy_to_lmstudio", "RUN --prove --rollback", "--rollback: not allowed with argument --prove"),
    ("deploy_to_lmstudio", "RUN --export gguf x", "hf is the only layout"),
    ("bench_training", "--out o --scaling --only vlm", "--scaling takes no --only"),
    ("bench_training", "--out o --scaling --repeats 2", "--scaling takes no --repeats"),
    *(
        ("bench_training", f"--out o --{name} {value}", f"{value}: not a whole number above 0")
        for name in ("repeats", "epochs", "rows", "layers", "hidden")
        for value in ("0", "-1", "1.5", "x", "٣")
    ),
    *(
        ("import_adapter", f"s --base b --out o --scale={x}", f"{x}: not a number above 0")
        for x in ["0", "-1", "nan", "inf", "x"]
    ),
    ("import_adapter", "s --out o", "required: --base"),
    ("make_report", "RUN --lang fr", "fr: no such language"),
    ("make_report", "RUN --nonsense", "unrecognized arguments: --nonsense"),
    ("inspect_model", "", "required: FOLDER"),
    ("export_hf", "RUN", "required: --out"),
    ("prepare_data", "--config c", "required: --out"),
]


@pytest.mark.parametrize(("tool", "arguments", "said"), REFUSED)
def test_what_an_option_would_leave_aside_is_refused_in_one_line(
    tool: str,
    arguments: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.call(importlib.import_module(f"tools.{tool}").main, arguments.split()) == 1
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
