"""init, config show, doctor: homes are made once, secrets stay secret, what is wrong is said."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from potsherd.cli.main import main
from potsherd.crypto.keys import RecoveryFile
from potsherd.datasets.home import Home

Call = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POTSHERD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def call(base: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a verb with --json; its objects. Fails on another exit code."""

    def run(*arguments: object, code: int = 0) -> list[dict[str, Any]]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert ended.value.code == code, captured.err
        return [json.loads(line) for line in captured.out.splitlines()]

    return run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_makes_homes_that_are_their_users_alone(call: Call, base: Path) -> None:
    [made] = call("init", "--quota", "5GB")
    assert made["fresh"]
    assert [mode(base / name) for name in ("person", "node")] == [0o700, 0o700]
    for name in ("person/master.key", "node/node.key"):
        assert mode(base / name) == 0o600
    settings = {row["key"]: row for row in call("config", "show")}
    assert settings["node.quota"]["value"] == 5 * 10**9
    assert settings["node.quota"]["source"] == f"file {base / 'node' / 'config.toml'}"


def test_init_again_changes_nothing(call: Call, base: Path) -> None:
    [first] = call("init")
    files = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    [again] = call("init", "--quota", "5GB")
    assert (again["fresh"], again["node_key"]) == (False, first["node_key"])
    assert {path: path.read_bytes() for path in base.rglob("*") if path.is_file()} == files


def test_the_recovery_file_holds_the_master_and_the_networks(
    call: Call, base: Path, tmp_path: Path
) -> None:
    call("network", "create", "one")
    call("init", "--recovery", tmp_path / "file")
    assert mode(tmp_path / "file") == 0o600
    file = RecoveryFile.decode((tmp_path / "file").read_text())
    home = Home.find(os.environ)
    assert file.master == home.master().secret
    assert file.networks == (home.networks.get("one").as_text(),)
    [error] = call("init", "--recovery", tmp_path / "file", code=2)
    assert "there already" in error["message"]
    call("init", "--recovery", tmp_path / "no" / "such" / "folder", code=1)


def test_no_secret_is_printed(
    base: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for arguments in (
        ["init", "--recovery", str(tmp_path / "f")],
        ["init"],
        ["config", "show"],
        ["doctor"],
    ):
        with pytest.raises(SystemExit):
            main(arguments)
    printed = capsys.readouterr()
    for secret in (
        Home.find(os.environ).master().secret,
        bytes.fromhex((base / "node/node.key").read_text()),
    ):
        assert secret.hex() not in printed.out + printed.err


def test_recovering_without_a_network_brings_the_keys_and_says_what_is_missing(
    call: Call, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("init", "--recovery", tmp_path / "file")
    master = Home.find(os.environ).master().secret
    monkeypatch.setenv("POTSHERD_HOME", str(tmp_path / "other"))
    [error] = call("init", "--recover", tmp_path / "file", code=4)
    assert "network join" in error["remedy"]
    assert Home.find(os.environ).master().secret == master
    monkeypatch.setenv("POTSHERD_HOME", str(tmp_path / "third"))
    call("init")
    kept = Home.find(os.environ).master().secret
    call("init", "--recover", tmp_path / "file", code=7)
    assert Home.find(os.environ).master().secret == kept


@pytest.mark.parametrize("damage", ["", "hello", "cut", "typo", "binary"])
def test_a_damaged_recovery_file_changes_nothing(
    call: Call, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    call("init", "--recovery", tmp_path / "file")
    text = (tmp_path / "file").read_bytes()
    damaged = {
        "cut": text[:-30],
        "typo": text[:-9] + bytes([text[-9] ^ 1]) + text[-8:],
        "binary": b"\xff" + text,
    }
    (tmp_path / "file").write_bytes(damaged.get(damage, damage.encode()))
    monkeypatch.setenv("POTSHERD_HOME", str(tmp_path / "other"))
    call("init", "--recover", tmp_path / "file", code=1)
    assert not (tmp_path / "other").exists()


def findings(objects: list[dict[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in objects:
        if item["type"] == "finding":
            found.setdefault(item["state"], []).append(item["check"])
    return found


def test_doctor_is_content_with_a_fresh_home(call: Call) -> None:
    call("init")
    assert "problem" not in findings(call("doctor", "--offline"))


def test_doctor_finds_what_is_wrong(
    call: Call, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("init")
    call("network", "create", "mine")
    (base / "person" / "master.key").chmod(0o644)
    (base / "person" / "networks" / "mine" / "key").chmod(0o640)
    monkeypatch.setenv("POTSHERD_QOUTA", "1GB")
    monkeypatch.setenv("POTSHERD_NODE_LISTEN", "0.0.0.0:4800")
    found = findings(call("doctor", "--offline", code=1))
    assert set(found["problem"]) == {"environment", "master.key", "key", "listen"}


def test_doctor_finds_damaged_files(call: Call, base: Path) -> None:
    call("init")
    call("network", "create", "mine")
    (base / "person" / "master.key").write_text("zz")
    (base / "node" / "node.key").write_text("zz")
    (base / "person" / "networks" / "mine" / "invitation").write_text("zz")
    found = findings(call("doctor", "--offline", code=1))
    assert set(found["problem"]) == {"person home", "node", "network mine"}


def test_a_wrong_configuration_is_exit_2_for_every_verb(call: Call, base: Path) -> None:
    call("init")
    (base / "person" / "config.toml").write_text("netwrok = 'x'\n")
    for verb in (["list"], ["config", "show"], ["put", "."], ["lab", "status"]):
        [error] = call(*verb, code=2)
        assert "'network'" in error["remedy"]
