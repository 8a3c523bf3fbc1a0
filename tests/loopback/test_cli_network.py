"""Networks by hand: make one, invite, join, run nodes; what an invitation does not allow."""

from __future__ import annotations

import signal
import stat
from pathlib import Path

import pytest
from cli_support import Cli, free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def maker(tmp_path: Path) -> Cli:
    """A home with a network `mylab` whose first node is to listen on loopback."""
    cli = Cli(tmp_path / "maker", POTSHERD_NODE_LISTEN=f"127.0.0.1:{free_port()}")
    cli("init")
    cli("network", "create", "mylab", "--operator", "maker")
    return cli


def guest(tmp_path: Path, name: str) -> Cli:
    return Cli(tmp_path / name, POTSHERD_NODE_LISTEN="127.0.0.1:0")


def test_a_second_node_joins_and_the_invitation_is_used_up(maker: Cli, tmp_path: Path) -> None:
    invitation = tmp_path / "invitation"
    maker("network", "invite", "--operator", "guest", "--output", invitation)
    assert stat.S_IMODE(invitation.stat().st_mode) == 0o600
    second, third = guest(tmp_path, "second"), guest(tmp_path, "third")
    with maker.node():
        joined = second("network", "join", invitation, "--json").object
        assert (joined["name"], joined["number"]) == ("mylab", 0)
        with second.node():
            assert second("node", "status", "--json").object["joined"]
            refused = third("network", "join", invitation, code=7)
            assert "already used" in refused.err
            assert third("network", "list").out == ""
            third("node", "run", code=4)
            third("network", "join", invitation, "--client")  # a client takes no number
            members = third("network", "members", "--json").objects
            assert sorted(m["operator"] for m in members) == ["guest", "maker"]
            # the same node may ask again and gets the number it has
            again = second("network", "join", invitation, "--json").object
            assert again["number"] == 0
        assert maker("network", "members", "--json").objects[-1]["serial"] == 1


def test_a_data_verb_borrows_the_peers_of_a_running_node(maker: Cli, tmp_path: Path) -> None:
    """The network's only bootstrap node is gone: who has no node of its own finds nobody any more."""
    text = maker("network", "invite").out
    second, client = guest(tmp_path, "second"), guest(tmp_path, "client")
    with maker.node() as first:
        second("network", "join", "-", stdin=text)
        client("network", "join", "-", "--client", stdin=text)
        with second.node():
            first.kill()
            first.wait()
            assert not (second.home / "person" / "networks" / "mylab" / "peers").exists()
            addresses = [peer["address"] for peer in second("peers", "--json").objects]
            listen = second("node", "status", "--json").object["listen"]
            assert f"{listen['host']}:{listen['port']}" in addresses
            client("peers", code=1)


def test_an_expired_invitation_joins_nobody_and_writes_nothing(maker: Cli, tmp_path: Path) -> None:
    text = maker("network", "invite", "--join-by", "0s").out
    late = guest(tmp_path, "late")
    refused = late("network", "join", "-", code=7, stdin=text)
    assert "expired" in refused.err
    assert not (late.home / "person" / "networks").exists()


def test_what_is_no_invitation(maker: Cli, tmp_path: Path) -> None:
    text = maker("network", "invite").out
    other = guest(tmp_path, "other")
    mistyped = text.replace("A", "B", 1)
    for wrong in ("", "hello", text[:200], mistyped, text + text):
        other("network", "join", "-", code=1, stdin=wrong)
    other("network", "join", tmp_path / "missing", code=4)
    assert other("network", "list").out == ""


def test_joining_says_so_when_nobody_answers(maker: Cli, tmp_path: Path) -> None:
    text = maker("network", "invite").out
    alone = guest(tmp_path, "alone")
    refused = alone("network", "join", "-", code=1, stdin=text)
    assert "--number 0" in refused.err
    assert alone("network", "list").out == ""
    assert (
        alone("network", "join", "-", "--number", "0", "--json", stdin=text).object["number"] == 0
    )
    alone("network", "join", "-", "--number", "1", code=7, stdin=text)


def test_one_process_runs_a_node_and_signals_stop_it(maker: Cli) -> None:
    maker("node", "status", code=4)
    with maker.node() as process:
        status = maker("node", "status", "--json").object
        assert (status["network"], status["joined"]) == ("mylab", True)
        text = maker("node", "status").out
        assert "network  mylab, joined\n" in text
        assert "0 pieces kept" in text
        assert "running" in maker("node", "run", code=7).err
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    with maker.node() as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    maker("node", "status", code=4)


def test_a_node_that_was_killed_starts_again(maker: Cli) -> None:
    with maker.node() as process:
        process.kill()
        process.wait(20)
    maker("node", "status", code=4)
    with maker.node():
        maker("node", "status")


def test_an_open_network_needs_no_invitation(tmp_path: Path) -> None:
    maker = Cli(tmp_path / "maker", POTSHERD_NODE_LISTEN=f"127.0.0.1:{free_port()}")
    maker("network", "create", "everybody", "--open")
    text = maker("network", "invite").out
    other = guest(tmp_path, "other")
    with maker.node():
        other("network", "join", "-", stdin=text)
        with other.node():
            assert len(other("peers", "--json").objects) == 2


def test_a_port_that_is_taken_is_an_error(maker: Cli, tmp_path: Path) -> None:
    with maker.node():
        address = maker("node", "status", "--json").object["listen"]
        second = Cli(tmp_path / "second")
        second("network", "create", "second", "--address", "127.0.0.1:1")
        refused = second("node", "run", "--listen", f"{address['host']}:{address['port']}", code=1)
        assert str(address["port"]) in refused.err
