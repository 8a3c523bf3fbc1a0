"""What a donor types while no node runs, and how progress reads."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from potsherd.cli.donor import progress_text
from potsherd.cli.main import main

STATE: dict[str, Any] = {
    "mode": "leaving",
    "quota": 0,
    "moved": 3,
    "moved_bytes": 5,
    "left_bytes": 2_000_000,
    "left_shards": 4,
    "stuck": 0,
    "reason": "",
    "rate_bytes_s": 0,
    "estimate_s": 90.0,
    "safe": False,
}


def call(
    capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0
) -> list[dict[str, Any]]:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert ended.value.code == code, captured.err
    return [json.loads(line) for line in captured.out.splitlines()]


def test_a_quota_is_written_down_for_the_next_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POTSHERD_HOME", str(tmp_path))
    [said] = call(capsys, "node", "quota", "5GB")
    assert (said["done"], said["wanted"]) == (True, 5 * 10**9)
    path = tmp_path / "node" / "config.toml"
    assert tomllib.loads(path.read_text())["node"] == {"quota": "5GB"}
    assert path.stat().st_mode & 0o777 == 0o600
    values = {row["key"]: row["value"] for row in call(capsys, "config", "show")}
    assert values["node.quota"] == 5 * 10**9
    call(capsys, "node", "quota", "5 apples", code=2)
    path.write_text('node = {quota = "1GB"}\n')
    call(capsys, "node", "quota", "5GB", code=2)
    assert path.read_text() == 'node = {quota = "1GB"}\n'


@pytest.mark.parametrize("verb", ["pause", "resume", "leave", "stop"])
def test_the_others_need_a_running_node(
    verb: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("POTSHERD_HOME", str(tmp_path))
    assert call(capsys, "node", verb, code=4)[0]["kind"] == "NotFoundError"


def test_progress_in_words() -> None:
    assert progress_text(STATE) == "leaving: 3 pieces moved, about 2 MB left, about 1min 30s more"
    stuck = progress_text({**STATE, "stuck": 2, "reason": "no room", "estimate_s": None})
    assert stuck.endswith("2 that no other node takes now: no room")
    shrinking = progress_text({**STATE, "mode": "shrinking", "quota": 10**9})
    assert shrinking.startswith("shrinking to 1 GB: ")
    assert progress_text({**STATE, "mode": "paused"}) == "paused"
    assert "safe to unplug" in progress_text({**STATE, "mode": "left", "safe": True})
