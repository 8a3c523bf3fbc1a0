"""The data verbs on a network of real processes: what they print, what they refuse, what they survive."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import stat
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import COMMAND_TIMEOUT_S, Cli, make_experiment, tree

pytestmark = pytest.mark.slow

NODES = 6
CODE = ("--k", "2", "--n", "6")
TRIES = 10
"""To meet a command in the middle of its work, on a machine that may be busy."""


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A lab of six nodes; every test leaves all of them running."""
    command = Cli(tmp_path_factory.mktemp("home"))
    with command.lab(NODES):
        yield command


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bit of everything."""
    return make_experiment(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def stored(cli: Cli, source: Path) -> str:
    """Its name in the library."""
    return cli("put", source, *CODE).out.rstrip("\n")


def test_put_prints_the_name_and_get_brings_it_back(
    cli: Cli, source: Path, stored: str, tmp_path: Path
) -> None:
    assert stored == "experiment"
    cli("get", stored, tmp_path / "back")
    assert tree(tmp_path / "back") == tree(source)
    again = cli("get", stored, tmp_path / "back", "--json").object
    assert (again["files"], again["kept"]) == (0, 5)


def test_ls_and_list(cli: Cli, stored: str) -> None:
    names = {entry["path"] for entry in cli("ls", stored, "--json").objects}
    assert names == {"a.csv", "deep", "empty", "line\nbreak", "link", "caf\udce9"}
    assert cli("ls", stored, "deep/er").out == "deep/er/big.bin\n"
    assert "line\\nbreak\n" in cli("ls", stored).out
    long = cli("ls", stored, "a.csv", "-l").out
    assert long.startswith("-rw-r-----")
    assert "800" in long
    recursive = {entry["path"] for entry in cli("ls", stored, "-R", "--json").objects}
    assert recursive > names
    listed = {row["name"]: row for row in cli("list", "--json").objects}
    assert (listed[stored]["files"], listed[stored]["placed"]) == (5, 6)


def test_cat_and_its_ranges(cli: Cli, source: Path, stored: str) -> None:
    content = (source / "deep" / "er" / "big.bin").read_bytes()
    path = "deep/er/big.bin"
    pieces = cli("cat", stored, path, "--json").objects
    assert b"".join(b64decode(piece["base64"]) for piece in pieces) == content
    [piece] = cli("cat", stored, path, "--range", "65530-65550", "--json").objects
    assert (piece["offset"], b64decode(piece["base64"])) == (65530, content[65530:65550])
    assert cli("cat", stored, "a.csv").out == (source / "a.csv").read_text()
    assert cli("cat", stored, "a.csv", "--range", "796-").out == "1,2\n"
    assert cli("cat", stored, "deep/nothing").out == ""
    cli("cat", stored, "a.csv", "--range", "801-", code=2)
    cli("cat", stored, "a.csv", "--range", "5", code=2)
    cli("cat", stored, "deep", code=2)
    cli("cat", stored, "missing", code=4)


def test_stat_and_verify_prove_every_piece(cli: Cli, stored: str) -> None:
    stat = cli("stat", stored, "--json").object
    foretold = stat["forecast"]
    assert 0 < foretold["low"] <= foretold["loss_probability"] <= foretold["high"] < 1
    words = cli("stat", stored).out
    assert re.search(r"^forecast  lost: about .* this year \(between .* and .*\);$", words, re.M)
    for clause in foretold["words"].split("; ")[1:]:
        assert clause in words
    assert f"survives {foretold['survives']} more machine" in foretold["words"]
    assert "assumes that " in foretold["words"]
    assert "holders have watched" in foretold["words"], "they were asked"
    assert (stat["live"], stat["n"], stat["survives"]) == (6, 6, 4)
    [segment] = stat["segments"]
    assert sorted(piece["index"] for piece in segment["pieces"]) == list(range(6))
    assert len({piece["key"] for piece in segment["pieces"]}) == 6
    verified = cli("verify", stored, "--deep", "--json").object
    assert (verified["files"], verified["failures"]) == (5, [])


def test_one_path_can_be_had_alone(cli: Cli, source: Path, stored: str, tmp_path: Path) -> None:
    cli("get", stored, tmp_path / "part", "deep/er", "a.csv")
    assert set(tree(tmp_path / "part")) == {b"a.csv", b"deep", b"deep/er", b"deep/er/big.bin"}
    cli("get", stored, tmp_path / "none", "deep/missing", code=4)
    assert not (tmp_path / "none" / "deep").exists()


def test_a_key_link_names_a_dataset_too(cli: Cli, source: Path, tmp_path: Path) -> None:
    ended = cli("put", source / "a.csv", *CODE, "--urn", "--name", "by-link")
    urn = ended.out.strip()
    assert urn.startswith("urn:eris:")
    (tmp_path / "link").write_text(urn + "\n")
    stranger = Cli(tmp_path / "stranger")
    text = (source / "a.csv").read_text()
    networks = cli.home / "person" / "networks" / "lab" / "invitation"
    stranger("network", "join", networks, "--client")
    assert stranger("cat", f"@{tmp_path / 'link'}", "a.csv").out == text
    assert stranger("cat", "-", "a.csv", stdin=urn).out == text
    typed = stranger("cat", urn, "a.csv")
    assert typed.out == text
    assert "seen by others" in typed.err
    stranger("cat", urn[:-1], "a.csv", code=2)
    stranger("cat", urn[:40] + ("A" if urn[40] != "A" else "B") + urn[41:], "a.csv", code=4)
    assert urn not in cli("list", "--json").out
    assert "urn" not in cli("put", source / "a.csv", *CODE, "--name", "no-link", "--json").object


def test_a_dry_run_spends_nothing(cli: Cli, source: Path) -> None:
    before = cli("list").out
    plan = cli("put", source, *CODE, "--dry-run", "--json").object
    assert (plan["type"], plan["files"], plan["dry_run"]) == ("plan", 5, True)
    assert plan["stored_bytes"] > 3 * 700_001
    assert "survives: any 4 of the 6" in cli("put", source, *CODE, "--dry-run").out
    assert cli("list").out == before


def test_what_put_refuses(cli: Cli, source: Path, stored: str, tmp_path: Path) -> None:
    before = cli("list").out
    many = cli("put", source, "--k", "4", "--n", "12", code=7)
    assert "6 answer" in many.err
    assert "--k 2 --n 4" in many.err  # the defaults table's code for six donors
    cli("put", source, "--k", "3", code=2)
    cli("put", source, "--k", "3", "--n", "2", code=2)
    cli("put", tmp_path / "missing", code=4)
    cli("put", source, *CODE, "--name", stored, code=2)
    cli("put", source, *CODE, "--name", "@x", code=2)
    cli("put", source, *CODE, "--network", "nowhere", code=4)
    cli("put", code=2)
    assert cli("list").out == before


def test_get_never_overwrites_silently(cli: Cli, stored: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("mine")
    refused = cli("get", stored, tmp_path, code=2)
    assert "a.csv" in refused.err
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "mine"
    cli("get", stored, tmp_path, "a.csv", "--overwrite")
    assert (tmp_path / "a.csv").read_text() != "mine"


def test_names_that_nobody_has(cli: Cli, stored: str) -> None:
    near = cli("ls", "experimant", code=4)
    assert stored in near.err
    error = cli("stat", "nothing-like-it", "--json", code=4).object
    assert (error["type"], error["kind"], error["exit_code"]) == ("error", "NotFoundError", 4)
    cli("ls", "@/nonexistent", code=4)
    cli("ls", "urn:eris:AAAA", code=2)


def test_the_recovery_file_brings_back_library_and_data(
    cli: Cli, source: Path, stored: str, tmp_path: Path
) -> None:
    cli("init", "--recovery", tmp_path / "recovery")
    cli("init", "--recovery", tmp_path / "recovery", code=2)  # never replaced
    lost = Cli(tmp_path / "new")
    lost("init", "--recover", tmp_path / "recovery")
    before = {row["name"] for row in cli("list", "--json").objects if row["stored"]}
    assert {row["name"] for row in lost("list", "--json").objects} == before
    lost("get", stored, tmp_path / "back")
    assert tree(tmp_path / "back") == tree(source)
    lost("init", "--recover", tmp_path / "recovery")  # again is no harm
    assert len(lost("list", "--json").objects) == len(before)
    typo = (tmp_path / "recovery").read_text().replace("A", "B", 1)
    (tmp_path / "typo").write_text(typo)
    Cli(tmp_path / "third")("init", "--recover", tmp_path / "typo", code=1)
    other = Cli(tmp_path / "fourth")
    other("init")
    other("init", "--recover", tmp_path / "recovery", code=7)


@pytest.mark.parametrize("verb", ["put", "get", "verify", "ls", "cat"])
def test_a_verb_loads_nothing_heavy_that_it_does_not_use(
    cli: Cli, stored: str, tmp_path: Path, verb: str
) -> None:
    """Each of these costs a command milliseconds, and none is needed for a small dataset."""
    heavy = {
        *("numpy", "h5py", "llvmlite", "rich", "numba", "distributed", "cryptography.x509"),
        *("importlib.metadata", "multiprocessing", "potsherd.node.store", "potsherd.node.server"),
        *("potsherd.datasets.keeping", "potsherd.simulations", "potsherd.cli.lab"),
    }
    storing = {"potsherd.durability", "potsherd.node.pusher", "potsherd.datasets.put"}
    (tmp_path / "note.txt").write_text("a note")
    arguments: dict[str, tuple[str | Path, ...]] = {
        "put": (tmp_path / "note.txt", *CODE),
        "get": (stored, tmp_path / "back"),
        "verify": (stored, "--deep"),
        "ls": (stored,),
        "cat": (stored, "a.csv"),
    }
    watched = Cli(cli.home, PYTHONPROFILEIMPORTTIME="1")
    lines = watched(verb, *arguments[verb]).err.splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "potsherd.node.session" in loaded
    may = {"put": storing, "verify": {"numpy"}}.get(verb, set())  # verify computes every cell
    assert loaded & (heavy | storing) <= may


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough to be interrupted in the middle: 40 MB in one file and many small ones."""
    folder = tmp_path_factory.mktemp("large")
    rng = random.Random(7)
    (folder / "one.bin").write_bytes(rng.randbytes(40_000_000))
    for number in range(200):
        (folder / f"{number:03}.txt").write_bytes(rng.randbytes(rng.randrange(20_000)))
    return folder


def bytes_on_disk(path: Path) -> int:
    """What a file takes; 0 for a folder, and for what got another name since it was listed."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0
    return status.st_blocks * 512 if stat.S_ISREG(status.st_mode) else 0


def wait_for(
    path: Path, pattern: str, bytes_min: int, timeout_s: float = COMMAND_TIMEOUT_S
) -> None:
    """Until files that match hold so much."""
    end = time.monotonic() + timeout_s
    while sum(bytes_on_disk(p) for p in path.glob(pattern)) < bytes_min:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_put_that_was_killed_goes_on(cli: Cli, large: Path, tmp_path: Path) -> None:
    with cli.start("put", large, *CODE, "--name", "resumed") as process:
        wait_for(cli.home / "lab", "node*/node/staging/*", 20_000_000)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert cli("put", large, *CODE, "--name", "resumed").out == "resumed\n"
    cli("get", "resumed", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(large)
    assert [d["name"] for d in cli("list", "--json").objects].count("resumed") == 1


def test_a_get_that_was_interrupted_goes_on(cli: Cli, large: Path, tmp_path: Path) -> None:
    cli("put", large, *CODE, "--name", "slow")
    back = tmp_path / "back"
    for _ in range(TRIES):
        with cli.start("get", "slow", back) as process:
            wait_for(tmp_path, "back/*", 4_000_000)
            process.send_signal(signal.SIGINT)
        if not (back / "one.bin").exists():  # under its own name only when it is complete
            break
        assert tree(back) == tree(large)
        shutil.rmtree(back)  # it was through before the signal came
    assert process.returncode == 130
    cli("get", "slow", back)
    assert tree(back) == tree(large)


def test_a_holder_that_dies_during_put_is_no_harm(cli: Cli, large: Path, tmp_path: Path) -> None:
    """w of 2-of-6 is 5: with one of six nodes gone the put is acknowledged and says so."""
    try:
        with cli.start("put", large, *CODE, "--name", "shaken", "--json") as process:
            wait_for(cli.home / "lab", "node*/node/staging/*", 20_000_000)
            process.send_signal(signal.SIGSTOP)  # or it could be through before the node is dead
            cli("lab", "kill", "3")
            process.send_signal(signal.SIGCONT)
            out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
        assert process.returncode == 0, err
        report = json.loads(out)
        assert report["placed"] == 5
        assert not report["complete"]
        cli("get", "shaken", tmp_path / "back")
        assert tree(tmp_path / "back") == tree(large)
    finally:
        cli("lab", "start")


def test_a_holder_that_dies_during_get_is_no_harm(cli: Cli, large: Path, tmp_path: Path) -> None:
    cli("put", large, *CODE, "--name", "read-on")
    back = tmp_path / "back"
    try:
        for _ in range(TRIES):
            with cli.start("get", "read-on", back) as process:
                wait_for(tmp_path, "back/*", 2_000_000)
                process.send_signal(signal.SIGSTOP)
                in_the_middle = not (back / "one.bin").exists()
                if in_the_middle:
                    cli("lab", "kill", "1", "2")
                process.send_signal(signal.SIGCONT)
                _, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
            assert process.returncode == 0, err
            assert tree(back) == tree(large)
            if in_the_middle:
                return
            shutil.rmtree(back)
        pytest.fail("get was through each time before its holders could be killed")
    finally:
        cli("lab", "start")
