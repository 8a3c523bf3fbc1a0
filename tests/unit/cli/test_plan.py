"""`plan` as a user calls it: words, JSON, exit codes, and that starting the command costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from potsherd.cli import main as command

ASKED = ("plan", "--donors", "60", "--data", "2TB", "--target", "1e-4/y", "--plans", "2")


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POTSHERD_HOME", str(tmp_path / "home"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def objects(text: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in text.splitlines():
        value = json.loads(line)
        found.setdefault(value.pop("type"), []).append(value)
    return found


def test_a_plan_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *ASKED)
    assert (code, err) == (0, "")
    for words in ("REPAIR BELOW", "1 in ", "between", "S3", "assumes that", "readable", "spare"):
        assert words.lower() in out.lower()


def test_a_plan_as_objects(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *ASKED, "--json")
    found = objects(out)
    assert code == 0
    assert len(found["plan"]) == 2
    for plan in found["plan"]:
        assert plan["loss_low"] <= plan["loss"] <= 1e-4
        assert plan["utilisation"] <= 0.8
        assert plan["expansion"] == pytest.approx(plan["n"] / plan["k"])
    assert found["plan_question"][0]["departures_per_year"] == pytest.approx(0.28768, rel=1e-4)


def test_what_cannot_be_reached_is_exit_6_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *ASKED[:4], "40TB", *ASKED[5:], "--json")
    found = objects(out)
    assert code == 6
    assert "plan" not in found
    assert len(found["plan_unreachable"]) == 1
    needed = {lever["field"]: lever["needed"] for lever in found["plan_lever"]}
    assert needed["disk"] > 5e11
    assert needed["data"] < 4e13
    code, out, _ = run(capsys, *ASKED[:4], "40TB", *ASKED[5:])
    assert code == 6
    assert "by itself" in out


@pytest.mark.parametrize(
    ("given", "code", "misses"),
    [
        ("10,40,36", 0, []),
        ("4,9,7", 6, ["loss", "readable"]),
        ("2,100,90", 6, ["donors", "disk"]),
    ],
)
def test_a_code_can_be_judged(
    capsys: pytest.CaptureFixture[str], given: str, code: int, misses: list[str]
) -> None:
    found_code, out, _ = run(capsys, *ASKED, "--code", given, "--json")
    found = objects(out)
    assert found_code == code
    assert found["plan_verdict"][0] == {"reached": not misses, "misses": misses}
    assert ",".join(str(found["plan"][0][name]) for name in "knr") == given


def test_a_trace_is_taken_and_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "left.csv"
    rows = [f"{int(1e6 * 0.9 ** (i / 12))},{i * 2629800}" for i in range(1, 60)]
    trace.write_text("node_count,timestamp\n" + "\n".join(rows) + "\n")
    code, out, _ = run(capsys, *ASKED, "--trace", str(trace), "--json")
    found = objects(out)
    assert code == 0
    [change] = found["plan_trace"][0]["changes"]
    assert change["measured"] == pytest.approx(0.105, rel=0.05)
    assert set(found["plan_lives"][0]["lives"]) == {"measured", "weibull", "exponential"}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("--uptime", "160%"), "--uptime"),
        (("--turnover", "-5%/y"), "--turnover"),
        (("--turnover", "0%/y"), "turnover"),
        (("--disk", "500"), "--disk"),
        (("--up", "fast"), "--up"),
        (("--target", "0/y"), "--target"),
        (("--sites", "1"), "sites"),
        (("--habit", "nightly"), "habit"),
        (("--donors", "1"), "donors"),
        (("--code", "10,30"), "--code"),
        (("--code", "10,30,9"), "r = 9"),
        (("--code", "31,30,30"), "k = 31"),
        (("--site-loss", "-1/y"), "--site-loss"),
        (("--trace", "missing.csv"), "missing.csv"),
        (("--prices", "missing.toml"), "missing.toml"),
    ],
)
def test_nonsense_is_exit_2_and_names_the_field(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], field: str
) -> None:
    code, out, err = run(capsys, *ASKED, *arguments)
    assert (code, out) == (2, "")
    assert field in err


def test_help_loads_neither_numpy_nor_the_planner() -> None:
    """Starting the command has to stay cheap: everything heavy is imported by the verbs."""
    script = (
        "import sys; from potsherd.cli import main\n"
        "loaded = [m for m in sys.modules if m.split('.')[0] in ('numpy', 'numba', 'rich')"
        " or m.startswith('potsherd.simulations')]\n"
        "print(loaded)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"
