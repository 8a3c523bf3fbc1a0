"""Joining a network with an invitation: which of its numbers this node takes."""

from __future__ import annotations

import asyncio

from potsherd.crypto.hashing import member_dht_id
from potsherd.crypto.invitations import InvitationFile
from potsherd.datasets.networks import Network
from potsherd.errors import MembershipError, UnreachableError
from potsherd.node.session import Session
from potsherd.ports import Env

__all__ = ["free_number"]

NUMBERS_AT_ONCE = 16
"""Presences looked up in parallel."""


async def free_number(
    env: Env, network: Network, invitation: InvitationFile, node_key: bytes
) -> int:
    """The first number of the invitation that no other node's presence holds, or the one we have.

    Raises MembershipError when all are taken, UnreachableError when no node answers.
    """
    access = network.client(env)
    try:
        session = await Session.open(
            env, access.config, access.chain, access.identity, bootstrap=access.bootstrap
        )
    except UnreachableError:
        raise UnreachableError(
            f"no node of the network {network.name!r} answers, so nobody knows which number is free",
            remedy="Try again when a bootstrap node runs, or choose the number yourself: --number 0",
        ) from None
    async with session:
        return await _search(session, network.config.network_id, invitation, node_key)


async def _search(
    session: Session, network_id: bytes, invitation: InvitationFile, node_key: bytes
) -> int:
    serial, nodes = invitation.certificate.serial, invitation.certificate.nodes
    for first in range(0, nodes, NUMBERS_AT_ONCE):
        numbers = range(first, min(nodes, first + NUMBERS_AT_ONCE))
        ids = (member_dht_id(network_id, serial, number) for number in numbers)
        found = await asyncio.gather(*(session.dht.find_presence(dht_id) for dht_id in ids))
        for number, presence in zip(numbers, found, strict=True):
            if presence is None or presence.key == node_key:
                return number
    raise MembershipError(
        f"the invitation is already used: all its {nodes} nodes have joined",
        remedy="Ask who invited you for another one.",
    )
