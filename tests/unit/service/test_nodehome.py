"""The node home: an identity that is never replaced, one network, one process."""

from __future__ import annotations

import random
import stat
from pathlib import Path

import pytest

from potsherd.crypto.invitations import invite
from potsherd.crypto.membership import create_network
from potsherd.errors import MalformedError, MembershipError, NotFoundError, RefusedError
from potsherd.service.nodehome import NodeHome

NOW = 1_800_000_000.0


def member(home: NodeHome, name: str, *, until: int | None = None) -> tuple[bytes, bytes]:
    """(signed configuration, chain) of a network that admits this node."""
    key, config = create_network(name, name.encode().ljust(32), ())
    invitation = invite(key, config, b"i" * 32, 0, "", 1, until=until)
    node_key = home.make_key(random.Random(1)).verify_key
    return config, invitation.certify_node(node_key, 0)


def test_the_key_is_made_once_and_secret(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "node")
    with pytest.raises(NotFoundError):
        home.key()
    key = home.make_key(random.Random(1))
    assert home.make_key(random.Random(2)).seed == key.seed
    assert stat.S_IMODE((home.folder / "node.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "00" * 33, "\xff"])
def test_a_damaged_key_is_an_error_and_not_replaced(tmp_path: Path, text: str) -> None:
    home = NodeHome(tmp_path)
    (tmp_path / "node.key").write_text(text, encoding="latin-1")
    for read in (home.key, lambda: home.make_key(random.Random(1))):
        with pytest.raises(MalformedError):
            read()
    assert (tmp_path / "node.key").read_text(encoding="latin-1") == text


def test_a_node_that_has_joined_knows_who_it_is(tmp_path: Path) -> None:
    home = NodeHome(tmp_path)
    config, chain = member(home, "one")
    with pytest.raises(NotFoundError):
        home.membership(NOW)
    home.join(config, chain)
    found = home.membership(NOW)
    assert found.config.name == "one"
    assert found.identity.key == home.key().verify_key
    assert found.chain == chain


def test_a_membership_that_is_over_is_refused(tmp_path: Path) -> None:
    home = NodeHome(tmp_path)
    home.join(*member(home, "one", until=int(NOW)))
    with pytest.raises(MembershipError, match="expired"):
        home.membership(NOW)


def test_a_node_serves_one_network(tmp_path: Path) -> None:
    home = NodeHome(tmp_path)
    home.join(*member(home, "one"))
    home.join(*member(home, "one"))
    with pytest.raises(RefusedError, match="one"):
        home.join(*member(home, "two"))
    assert home.membership(NOW).config.name == "one"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    home = NodeHome(tmp_path)
    with home.locked(), pytest.raises(RefusedError, match="running"), NodeHome(tmp_path).locked():
        pass
    with home.locked():
        pass
