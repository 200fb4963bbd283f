"""The monitor: whatever state a run is in, the screen, the lines and the page say it."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from medtune import cli
from medtune.metrics import History, thin
from medtune.monitor import plot, watch, web
from medtune.monitor.screen import Screen, summary
from medtune.monitor.status import observe, status_of
from medtune.progress import duration
from tests import fakerun
from tools import monitor_training


def history(rows: list[dict]) -> History:
    return History.parse(json.dumps(row) for row in rows)


def shown(screen: Screen, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(screen)
    return console.export_text()


# --- history


def test_a_half_written_last_line_is_not_read(tmp_path: Path) -> None:
    path = fakerun.write_metrics(tmp_path, fakerun.metrics(until=50))
    whole = History.read(path)
    with open(path, "a") as file:
        file.write('{"kind": "train", "step": 60, "lo')
    assert History.read(path) == whole


def test_a_line_broken_by_a_kill_and_continued_by_a_resume_does_not_hide_the_others(tmp_path: Path) -> None:
    path = fakerun.write_metrics(tmp_path, fakerun.metrics(until=50))
    with open(path, "a") as file:
        file.write('{"kind": "train", "st\n' + json.dumps(fakerun.train(60, 0)) + "\n")
    assert History.read(path).step == 60


def test_steps_taken_again_after_a_resume_count_once_and_as_the_second_time() -> None:
    rows = fakerun.metrics(until=100)
    again = [{**row, "loss": 9.0} for row in rows if row["kind"] in ("train", "valid") and row["step"] > 50]
    resumed = history([*rows, fakerun.event("resume", 50, fakerun.BEGIN + 200), *again])
    curve = resumed.curve("train", "loss")
    assert [step for step, _ in curve] == list(range(10, 101, 10))
    assert [value for step, value in curve if step > 50] == [9.0] * 5
    assert len(resumed.of("valid")) == len(history(rows).of("valid"))


def test_a_new_start_forgets_the_run_before() -> None:
    rows = history([*fakerun.metrics(), fakerun.event("start", 0, fakerun.BEGIN + 999, total_steps=30)])
    assert (rows.step, rows.total_steps, rows.curve("train", "loss")) == (0, 30, [])


def test_the_curve_of_a_dimension_skips_rows_in_which_it_did_not_occur() -> None:
    rows = fakerun.metrics(until=20)
    rows[2]["loss_by_dim"] = {"accuracy": 0.5, "vision": None}
    assert [step for step, _ in history(rows).curve("train", "loss_by_dim.vision")] == [20]


# --- states


@pytest.mark.parametrize(
    ("rows", "after", "state"),
    [
        ([], 0, "waiting"),
        (fakerun.metrics(until=0)[:1], 5, "preparing"),
        (fakerun.metrics(until=50), 5, "running"),
        (fakerun.metrics(until=50), 59, "running"),
        (fakerun.metrics(until=50), 61, "stalled"),
        (fakerun.metrics(), 1e6, "finished"),
        (fakerun.metrics(end="early_stop"), 1e6, "finished"),
        (fakerun.metrics(end="stop"), 1e6, "stopped"),
        ([*fakerun.metrics(end="stop"), fakerun.event("resume", 100, fakerun.BEGIN + 5000)], 5, "running"),
    ],
)
def test_the_state_follows_from_the_last_rows_and_the_clock(rows: list[dict], after: float, state: str) -> None:
    now = (rows[-1]["time"] if rows else fakerun.BEGIN) + after
    assert status_of("run", history(rows), now).state == state


def test_a_slow_run_is_not_called_stalled_within_its_own_rhythm() -> None:
    slow = [{**row, "time": fakerun.BEGIN + row["step"] * 10} for row in fakerun.metrics(until=50)]
    now = slow[-1]["time"]
    assert status_of("run", history(slow), now + 450).state == "running"
    assert status_of("run", history(slow), now + 550).state == "stalled"


def test_the_remaining_time_counts_steps_and_validations() -> None:
    rows = fakerun.metrics(200, until=100)  # 1 it/s, a validation of half a second per 50 steps
    now = status_of("run", history(rows), rows[-1]["time"])
    assert now.eta == pytest.approx(100 + 2 * 0.5)


def test_a_pause_before_a_resume_is_no_time_spent() -> None:
    rows = [*fakerun.metrics(until=50), fakerun.event("resume", 50, fakerun.BEGIN + 9000)]
    assert status_of("run", history(rows), fakerun.BEGIN + 9010).elapsed == pytest.approx(52 + 10)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (487, "8:07"), (8109, "2:15:09"), (59.6, "1:00")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rows_without_a_time_are_shown_and_count_as_written_with_the_row_before() -> None:
    rows = fakerun.metrics(until=50)
    now = rows[-1]["time"] + 3
    whole = status_of("run", history(rows), now)
    del rows[3]["time"]
    rows[0]["time"] = "noon"
    some = status_of("run", history(rows), now)
    assert (some.state, some.silent, some.eta) == (whole.state, whole.silent, whole.eta)
    none = status_of("run", history([{**row, "time": None} for row in rows]), now)
    assert none.state == "running"
    for moment in (some, none):
        assert "loss" in shown(Screen(moment)) and summary(moment) and json.dumps(web.snapshot(moment))


# --- plot


def test_a_rising_line_is_drawn_from_the_lower_left_to_the_upper_right() -> None:
    rows = plot.draw([[(0, 0.0), (10, 1.0)]], width=10, height=4)
    assert rows[-1][0][0] != " " and rows[0][-1][0] != " "
    assert rows[0][0][0] == " " and rows[-1][-1][0] == " "


@pytest.mark.parametrize("curves", [[], [[]], [[(5, 1.0)]], [[(1, float("nan")), (2, 1.0)]], [[(1, 2.0), (2, 2.0)]]])
def test_any_curve_fits_its_frame(curves: list) -> None:
    rows = plot.draw(curves, width=12, height=3)
    assert [len(row) for row in rows] == [12] * 3


# --- screen


@pytest.mark.parametrize("width", [30, 44, 80, 160])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_screen_fits_any_width_in_both_languages(width: int, lang: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.cells import cell_len

    monkeypatch.setenv("MEDTUNE_LANG", lang)
    rows = fakerun.metrics(until=140)
    text = shown(Screen(status_of("adapters_v2", history(rows), rows[-1]["time"] + 3)), width)
    assert max(map(cell_len, text.splitlines())) <= width


@pytest.mark.parametrize("height", [20, 23, 30, 33, 34, 50])
def test_the_screen_is_no_higher_than_the_terminal(height: int) -> None:
    rows = fakerun.metrics(until=140)
    text = shown(Screen(status_of("adapters_v2", history(rows), rows[-1]["time"] + 3), height))
    assert len(text.splitlines()) <= height
    assert "1.00 it/s" in text and "140/200" in text


def test_the_screen_shows_what_the_last_rows_say() -> None:
    rows = fakerun.metrics(until=140)
    text = shown(Screen(status_of("adapters_v2", history(rows), rows[-1]["time"] + 3)))
    for fact in (
        "140/200",
        "70%",
        "1.00 it/s",
        "240 tok/s",
        "18.80 GB",
        "3.4%",
        "0000100_adapters.safetensors",
        "0.842",
    ):
        assert fact in text
    assert f"{rows[-1]['lr']:.2e}" in text


def test_a_run_that_has_not_begun_says_what_it_waits_for(tmp_path: Path) -> None:
    now = observe(tmp_path / "adapters_v9", time.time())
    assert "make train RUN=" in shown(Screen(now), 400)
    assert any("metrics.jsonl" in text for text in summary(now))


# --- the tool


def test_once_prints_where_a_finished_run_stands_and_exits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fakerun.write_metrics(tmp_path / "run", fakerun.metrics())
    assert cli.call(monitor_training.main, [str(tmp_path / "run"), "--once"]) == 0
    out = capsys.readouterr().out
    assert "finished: all 200 steps taken" in out and "loss 0.3" in out


def test_once_on_a_folder_without_a_run_waits_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.call(monitor_training.main, [str(tmp_path), "--once"]) == 0
    assert "waiting for" in capsys.readouterr().out


def test_without_a_terminal_each_row_is_printed_once_while_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = fakerun.metrics(steps=50)
    stages = [rows[:3], rows[:6], rows]

    def grow(seconds: float) -> None:
        fakerun.write_metrics(tmp_path, stages.pop(0))

    watch.watch(tmp_path, Console(file=io.StringIO()), sleep=grow)
    lines = capsys.readouterr().out.splitlines()
    assert sum("  train " in text for text in lines) == 5
    assert any("waiting for" in text for text in lines)
    assert "finished" in lines[-1]


def test_a_row_without_a_time_is_printed_once_too(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [{key: value for key, value in row.items() if key != "time"} for row in fakerun.metrics(steps=50)]
    stages = [rows[:3], rows[:6], rows]
    watch.watch(
        tmp_path, Console(file=io.StringIO()), sleep=lambda _: fakerun.write_metrics(tmp_path, stages.pop(0)) and None
    )
    assert sum(text.startswith("train ") for text in capsys.readouterr().out.splitlines()) == 5


def test_on_a_terminal_the_last_screen_says_finished(tmp_path: Path) -> None:
    fakerun.write_metrics(tmp_path, fakerun.metrics(until=100))
    console = Console(force_terminal=True, width=90, height=40, record=True, file=io.StringIO())
    watch.watch(tmp_path, console, sleep=lambda _: fakerun.write_metrics(tmp_path, fakerun.metrics()) and None)
    assert "all 200 steps taken" in console.export_text()


# --- the page


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """The address of the page of a run that is under way."""
    rows = fakerun.metrics(until=140)
    shift = time.time() - rows[-1]["time"]
    fakerun.write_metrics(tmp_path / "adapters_v2", [{**row, "time": row["time"] + shift} for row in rows])
    with web.server(tmp_path / "adapters_v2", port=0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # seconds until it stops
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_page_answers_on_this_machine_only(page: str) -> None:
    snapshot = json.load(urllib.request.urlopen(f"{page}/progress.json"))
    assert (snapshot["state"], snapshot["step"]) == ("running", 140)
    foreign = urllib.request.Request(f"{page}/progress.json", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(foreign)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{page}/../../etc/passwd")


def asked(page: str, path: str = "/progress.json", method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    """The server's answer to these very headers."""
    connection = http.client.HTTPConnection("127.0.0.1", int(page.rsplit(":", 1)[1]), timeout=5)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1.evil.example:{port}",
        "localhost.:{port}",
        "[::1]:{port}",
        "127.0.0.1:{port}.evil.example",
        "x@127.0.0.1:{port}",
        "127.0.0.1:{port}, evil.example",
        "localhost",
        "0.0.0.0:{port}",
        "evil.example:{port}",
        "127.0.0.1:0{port}",
    ],
)
def test_only_its_own_address_is_answered(host: str, page: str) -> None:
    port = page.rsplit(":", 1)[1]
    assert asked(page, Host=host.format(port=port)).status == 403
    assert asked(page).status == 403
    for own in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert asked(page, Host=own).status == 200


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "https://{own}", "http://{own}.evil.example", "http://localhost", ""]
)
def test_a_page_from_elsewhere_is_refused(origin: str, page: str) -> None:
    own = page.removeprefix("http://")
    assert asked(page, Host=own, Origin=origin.format(own=own)).status == 403
    assert asked(page, Host=own, Origin=page).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/metrics.jsonl",
        "/../metrics.jsonl",
        "/..%2fmetrics.jsonl",
        "//etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/progress.json/..",
        "/page.html",
        "http://evil.example/",
        "/progress.json%00",
        "*",
    ],
)
def test_nothing_but_the_page_and_its_figures_is_served(path: str, page: str) -> None:
    assert asked(page, path, Host=page.removeprefix("http://")).status == 404


def test_a_head_has_no_body_and_no_method_changes_anything(page: str) -> None:
    own = page.removeprefix("http://")
    head = asked(page, method="HEAD", Host=own)
    assert head.status == 200 and head.read() == b"" and int(head.headers["Content-Length"]) > 0
    assert {
        asked(page, method=method, Host=own).status for method in ("POST", "PUT", "DELETE", "OPTIONS", "X" * 99)
    } == {501}


def test_who_holds_many_connections_does_not_make_it_hold_more(page: str) -> None:
    port = int(page.rsplit(":", 1)[1])
    before = threading.active_count()
    held = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(3 * web.CONNECTIONS)]
    time.sleep(0.3)
    assert threading.active_count() - before <= web.CONNECTIONS
    for connection in held:
        connection.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert asked(page, Host=page.removeprefix("http://")).status == 200


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_loads_nothing_from_elsewhere_and_leaves_no_placeholder(
    lang: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDTUNE_LANG", lang)
    html = web.page()
    assert "__" not in html
    addresses = [word for word in html.replace('"', " ").split() if word.startswith(("http:", "https:", "//"))]
    assert addresses in (["http://www.w3.org/2000/svg"], ["http://www.w3.org/2000/svg", "//"])


def test_a_taken_port_is_one_line(page: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    port = page.rsplit(":", 1)[1]
    assert cli.call(monitor_training.main, [str(tmp_path), "--web", "--port", port]) == 1
    assert "--port" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_port_there_is_not_is_one_line(port: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.call(monitor_training.main, [str(tmp_path), "--web", f"--port={port}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: 127.0.0.1:{port}: ") and "--port 0" in error and error.count("\n") == 1


def test_a_thinned_curve_keeps_its_ends() -> None:
    curve = [(step, float(step)) for step in range(5000)]
    thinned = thin(curve, most=100)
    assert len(thinned) == 100 and thinned[0] == curve[0] and thinned[-1] == curve[-1]


@pytest.mark.model("starts Chromium")
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium (apt-get install chromium)")
def test_in_a_browser_the_page_draws_the_curves_and_the_figures(page: str, tmp_path: Path) -> None:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command = [
        "chromium",
        *flags,
        f"--user-data-dir={tmp_path}/profile",
        "--virtual-time-budget=3000",
        "--dump-dom",
        page,
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "140 / 200" in dom and 'class="running"' in dom
    assert dom.count("<path") >= 2 + 3 + 3  # loss, dimensions, and the three small charts
    assert "0000100_adapters.safetensors" in dom


def test_a_run_that_is_a_file_is_one_line_also_for_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").touch()
    for way in ("--once", "--web"):
        assert cli.call(monitor_training.main, [str(tmp_path / "run"), way, *(["--port", "0"] * (way == "--web"))]) == 1
        assert "metrics.jsonl" in capsys.readouterr().err
