"""Networks of a person home: kept, chosen, joined as a client, never mixed up."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from potsherd.crypto.invitations import InvitationFile
from potsherd.crypto.membership import NetworkConfig, Role, sign_config, verify_chain
from potsherd.datasets.networks import Network, Networks
from potsherd.datasets.peer_cache import PEERS_MAX, PeerCache
from potsherd.errors import (
    MalformedError,
    MembershipError,
    NotFoundError,
    PotsherdError,
    RefusedError,
    UsageError,
)
from potsherd.ports import Address, Env
from potsherd.simulations.world import World

NODE = (b"n" * 32, Address("127.0.0.1", 4800))


@pytest.fixture
def env() -> Env:
    return World(1).env("client")


@pytest.fixture
def networks(tmp_path: Path) -> Networks:
    return Networks(tmp_path / "networks")


def newer(network: Network, **changes: object) -> bytes:
    """A signed configuration with the next number."""
    facts = vars(network.config) | {"number": network.config.number + 1} | changes
    return sign_config(network.key(), NetworkConfig(**facts))


def test_the_maker_has_the_key_and_an_invitation_of_its_own(networks: Networks, env: Env) -> None:
    network = networks.create(env, "mine", [NODE], is_open=False, operator="me")
    assert network.is_maker()
    assert network.invitation is not None
    assert network.invitation.certificate.serial == 0
    for name in ("key", "invitation"):
        assert stat.S_IMODE((network.folder / name).stat().st_mode) == 0o600
    assert networks.names() == ["mine"]
    with pytest.raises(UsageError):
        networks.create(env, "mine", [NODE], is_open=False)


def test_every_invitation_has_a_serial_of_its_own(networks: Networks, env: Env) -> None:
    network = networks.create(env, "mine", [NODE], is_open=False)
    made = [network.invite(env, f"op{i}", 2, join_by=None, until=None) for i in range(3)]
    again = Networks(networks.folder).get("mine").invite(env, "op3", 1, join_by=7, until=8)
    assert [i.certificate.serial for i in (*made, again)] == [1, 2, 3, 4]
    assert [entry["operator"] for entry in network.issued()] == ["", "op0", "op1", "op2", "op3"]


def test_a_guest_joins_with_the_file_and_cannot_invite(
    networks: Networks, env: Env, tmp_path: Path
) -> None:
    maker = networks.create(env, "mine", [NODE], is_open=False)
    text = maker.invite(env, "guest", 1, join_by=None, until=None).encode()
    guest = Networks(tmp_path / "guest").add(text)
    assert guest.config == maker.config
    assert not guest.is_maker()
    with pytest.raises(RefusedError):
        guest.invite(env, "other", 1, join_by=None, until=None)


def test_a_client_has_a_fresh_key_and_a_chain_that_admits_it(networks: Networks, env: Env) -> None:
    for name, is_open in (("closed", False), ("open", True)):
        network = networks.create(env, name, [NODE], is_open=is_open)
        first, second = network.client(env), network.client(env)
        assert first.identity.key != second.identity.key
        member = verify_chain(first.chain, first.identity.key, network.config, env.utc())
        assert member.role is Role.CLIENT


def test_a_client_of_a_removed_member_is_refused_here_already(networks: Networks, env: Env) -> None:
    network = networks.create(env, "mine", [NODE], is_open=False)
    assert network.update(newer(network, removed=((0, 0),)))
    with pytest.raises(MembershipError, match="removed"):
        network.client(env)
    with pytest.raises(MembershipError):
        networks.get("mine").client(env)  # read again from the files


def test_only_a_newer_configuration_of_the_same_network_is_taken(
    networks: Networks, env: Env
) -> None:
    network = networks.create(env, "mine", [NODE], is_open=False)
    data = newer(network, name="renamed")
    assert network.update(data)
    assert not network.update(data)
    assert networks.get("mine").config.name == "renamed"
    other = networks.create(env, "other", [NODE], is_open=False)
    with pytest.raises(MembershipError):
        network.update(other.config_bytes)


def test_one_network_is_chosen_by_itself_several_are_not(networks: Networks, env: Env) -> None:
    with pytest.raises(NotFoundError):
        networks.choose(None)
    networks.create(env, "one", [NODE], is_open=False)
    assert networks.choose(None).name == "one"
    networks.create(env, "two", [NODE], is_open=False)
    with pytest.raises(UsageError, match="one, two"):
        networks.choose(None)
    assert networks.choose("two").name == "two"
    with pytest.raises(NotFoundError) as caught:
        networks.choose("tow")
    assert "two" in caught.value.remedy


def test_a_name_is_no_way_out_of_the_folder(networks: Networks, env: Env) -> None:
    for name in ("../x", "", ".", "a/b", "-x", "a\n"):
        with pytest.raises(PotsherdError):
            networks.create(env, name, [NODE], is_open=True)
    assert networks.names() == []


def test_two_networks_of_one_name_are_kept_apart(
    networks: Networks, env: Env, tmp_path: Path
) -> None:
    networks.create(env, "lab", [NODE], is_open=False)
    foreign = Networks(tmp_path / "x").create(env, "lab", [NODE], is_open=False)
    with pytest.raises(UsageError, match="another network"):
        networks.add(foreign.as_text())
    assert networks.add(foreign.as_text(), "theirs").config == foreign.config
    networks.add(foreign.as_text(), "theirs")  # the same again is no harm
    networks.remove("theirs")
    assert networks.names() == ["lab"]


def test_a_network_file_admits_to_open_networks_only(networks: Networks, env: Env) -> None:
    from potsherd.crypto.invitations import encode_network

    closed = networks.create(env, "closed", [NODE], is_open=False)
    with pytest.raises(RefusedError, match="invitation"):
        networks.add(encode_network(closed.config_bytes), "again")


def test_damaged_files_are_errors_of_ours(networks: Networks, env: Env) -> None:
    network = networks.create(env, "mine", [NODE], is_open=False)
    path = network.folder / "invitation"
    text = path.read_bytes()
    for damaged in (b"", text[:-40], text.replace(b"A", b"B", 1), b"\xff" * 10):
        path.write_bytes(damaged)
        with pytest.raises(PotsherdError):
            networks.get("mine")
    path.write_bytes(text)
    (network.folder / "key").write_text("not hex")
    with pytest.raises(MalformedError):
        networks.get("mine").key()
    (network.folder / "issued").write_text("not json\n")
    with pytest.raises(MalformedError):
        networks.get("mine").issued()


def test_the_recovery_text_joins_again(networks: Networks, env: Env, tmp_path: Path) -> None:
    network = networks.create(env, "mine", [NODE], is_open=False)
    again = Networks(tmp_path / "new").add(network.as_text())
    assert again.invitation == InvitationFile.decode(network.as_text())


def test_the_peer_cache_is_bounded_and_a_damaged_one_is_empty(tmp_path: Path) -> None:
    cache = PeerCache(tmp_path / "peers")
    assert cache.load() == []
    peers = [(bytes([i]) * 32, Address("127.0.0.1", 1000 + i)) for i in range(PEERS_MAX + 5)]
    cache.save(peers)
    assert cache.load() == peers[:PEERS_MAX]
    cache.save([])
    assert cache.load() == peers[:PEERS_MAX]
    for damaged in ("", "[]", '{"peers": 5}', '{"peers": [{"key": 5, "host": "::1"}]}'):
        cache.path.write_text(damaged)
        assert cache.load() == []
    cache.path.write_text('{"peers": [{"key": "%s", "host": "a name", "port": 1}]}' % ("00" * 32))
    assert cache.load() == []
