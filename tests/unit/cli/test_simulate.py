"""`simulate` as a user calls it, in this process; with several processes and Ctrl-C: tests/loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from potsherd.cli import main as command

SCENARIO = """
years = 1
replicates = 2
[data]
segments = 20
[code]
k = 2
n = 4
r = 3
[[nodes]]
count = 20
turnover = "50%/y"
[[what_if]]
field = "code.r"
values = [4]
"""


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("POTSHERD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        command.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def test_a_file_is_simulated_with_or_without_the_verb(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    code, out, err = run(capsys, "simulate", file, "--processes", "1")
    assert (code, err) == (0, "")
    assert "report: small.html" in out
    page = Path("small.html").read_text()
    assert "<svg" in page
    again = run(capsys, "simulate", "run", file, "--processes", "1", "--out", "again.html")
    assert again[0] == 0
    assert Path("again.html").read_text() == page  # one seed, one report


def test_json_says_everything_and_options_override(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    arguments = ("--processes", "1", "--replicates", "3", "--seed", "5", "--json")
    code, out, _ = run(capsys, "simulate", file, *arguments)
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [f["type"] for f in found] == ["simulation", "simulation", "report"]
    assert [f["value"] for f in found[:2]] == [None, "4"]
    assert found[0]["replicates"] == found[0]["replicates_asked"] == 3
    assert found[0]["loss_per_year"]["trials"] == 60
    assert found[2]["done"] == found[2]["total"] == 6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--processes", "0"), "processes"),
        (("--engine", "abacus"), "--engine"),
        (("--out", "no/such/place.html"), "--out"),
        (("--trace", "missing.csv"), "missing.csv"),
        (("--replicates", "0"), "replicates"),
    ],
)
def test_nonsense_is_exit_2(
    capsys: pytest.CaptureFixture[str], file: Path, arguments: tuple[str, ...], says: str
) -> None:
    code, out, err = run(capsys, "simulate", file, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert not Path("small.html").exists()


def test_a_wrong_file_names_the_field(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    file.write_text(SCENARIO.replace("turnover", "turnver"))
    code, _, err = run(capsys, "simulate", file)
    assert code == 2
    assert "nodes[0]" in err
