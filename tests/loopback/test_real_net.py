"""What only sockets can do wrong: hostile TLS, silent peers, killed processes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from raw_peer import RawPeer

import potsherd
from potsherd.crypto.signing import SigningKey
from potsherd.errors import PeerError, UnreachableError, UsageError
from potsherd.node.real import certificates, tls
from potsherd.node.real import net as real_net
from potsherd.node.real import streams as real_streams
from potsherd.node.real.net import RealListener, RealNet
from potsherd.node.real.sealing import Opener
from potsherd.node.real.streams import SealedStream
from potsherd.ports import Address, Identity, Stream

LOCAL = Address("127.0.0.1", 0)
NETWORK = b"n" * 32


def identity(number: int, network: bytes = NETWORK) -> Identity:
    seed = bytes([number]) * 32
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return Identity(seed, key, network)


ANNA, BERT = identity(1), identity(2)


async def greet(stream: Stream) -> None:
    await stream.write(b"hello")


@contextlib.asynccontextmanager
async def listening(accept: Any = greet) -> AsyncIterator[RealListener]:
    listener = await RealNet().listen(LOCAL, BERT, accept)
    yield listener
    await listener.close()


async def assert_serves(listener: RealListener) -> None:
    stream = await RealNet().dial(listener.address, ANNA, BERT.key, timeout_s=5)
    assert await stream.read_exactly(5) == b"hello"
    await stream.close()


# certificates


def test_certificate_is_a_function_of_the_key() -> None:
    assert certificates.node_certificate(ANNA.key) == certificates.node_certificate(ANNA.key)
    assert certificates.node_certificate(ANNA.key) != certificates.node_certificate(BERT.key)
    certificate = x509.load_der_x509_certificate(certificates.node_certificate(ANNA.key))
    assert certificate.not_valid_before_utc.year == 1970
    assert certificate.not_valid_after_utc.year == 9999
    assert certificate.serial_number.bit_length() <= 159


def test_certificate_is_that_of_the_vector() -> None:
    """docs/spec/streams.md; peers need not have equal certificates, but ours must not change unnoticed."""
    path = Path(__file__).parent.parent / "vectors" / "tls" / "node-certificate.json"
    case = json.loads(path.read_text())
    assert certificates.AUTHORITY_SEED.hex() == case["authority_seed"]
    assert certificates.authority_certificate().hex() == case["authority_certificate"]
    key = SigningKey(bytes.fromhex(case["node_seed"])).verify_key
    assert certificates.node_certificate(key).hex() == case["node_certificate"]
    assert tls.alpn(bytes.fromhex(case["network_id"])) == case["alpn"]


def test_ours_is_what_the_library_would_make() -> None:
    """Serial numbers of all lengths among them."""
    authority = Ed25519PrivateKey.from_private_bytes(certificates.AUTHORITY_SEED)
    for number in range(300):
        seed = hashlib.blake2b(number.to_bytes(2, "big"), digest_size=32).digest()
        key = Ed25519PrivateKey.from_private_bytes(seed).public_key()
        ours = certificates.node_certificate(key.public_bytes_raw())
        read = x509.load_der_x509_certificate(ours)
        assert ours == library_made(read, key, authority)
        assert read.public_key() == key
        assert certificates.key_of(ours) == key.public_bytes_raw()


def library_made(
    read: x509.Certificate, key: Ed25519PublicKey, authority: Ed25519PrivateKey
) -> bytes:
    """The page's certificate of a key, by the X.509 library; names and dates as they were `read`."""
    number = hashlib.blake2b(key.public_bytes_raw(), digest_size=16).digest()
    name = x509.NameAttribute(NameOID.COMMON_NAME, key.public_bytes_raw().hex())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([name]))
        .issuer_name(read.issuer)
        .public_key(key)
        .serial_number(int.from_bytes(number, "big") + 1)
        .not_valid_before(read.not_valid_before_utc)
        .not_valid_after(read.not_valid_after_utc)
    )
    for extension in (
        x509.BasicConstraints(ca=False, path_length=None),
        read.extensions.get_extension_for_class(x509.KeyUsage).value,
        x509.SubjectKeyIdentifier.from_public_key(key),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
    ):
        critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(authority, None).public_bytes(Encoding.DER)


def test_the_key_is_that_of_the_certificate_whatever_else_is_in_it() -> None:
    """Others may make theirs in another way, and lie in each part of it; or send no certificate at all."""
    mallory = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
    pem = certified(mallory, ANNA.key.hex(), certificates.AUTHORITY_SEED)
    other = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    assert certificates.key_of(other) == mallory.public_key().public_bytes_raw()
    annas = certificates.node_certificate(ANNA.key)
    for at in range(len(annas)):
        changed = annas[:at] + bytes([annas[at] ^ 1]) + annas[at + 1 :]
        assert outcome(certificates.key_of, changed) == outcome(library_read, changed)
    for size in (0, 1, 31, 203, 204, 205, len(annas) - 1):
        with pytest.raises(PeerError):
            certificates.key_of(annas[:size])


def outcome(read: Callable[[bytes], bytes], data: bytes) -> bytes | None:
    """None for what is no certificate of an Ed25519 key."""
    try:
        return read(data)
    except Exception:
        return None


def library_read(data: bytes) -> bytes:
    """The key as the X.509 library finds it."""
    key = x509.load_der_x509_certificate(data).public_key()
    assert isinstance(key, Ed25519PublicKey)
    return key.public_bytes_raw()


def test_dialling_needs_no_library_for_certificates() -> None:
    """It would be half the CPU of a small get."""
    code = (
        "import asyncio, ssl, sys\n"
        "from potsherd.crypto.signing import SigningKey\n"
        "from potsherd.node.real import certificates, tls\n"
        "from potsherd.ports import Identity\n"
        "key = SigningKey(bytes(32)).verify_key\n"
        "asyncio.run(tls.Contexts().client(Identity(bytes(32), key, bytes(32))))\n"
        "assert certificates.key_of(certificates.node_certificate(key)) == key\n"
        "print('cryptography.x509' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


async def test_key_that_does_not_belong_to_the_seed_is_a_mistake() -> None:
    with pytest.raises(UsageError):
        await tls.Contexts().client(Identity(ANNA.seed, BERT.key, NETWORK))


async def test_keys_of_connections_are_written_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """OpenSSL's key log would hold what opens every greeting."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    async with listening() as listener:
        await assert_serves(listener)
    assert list(tmp_path.iterdir()) == []


async def test_contexts_are_bounded() -> None:
    contexts = tls.Contexts()
    first = await contexts.client(identity(0))
    assert (await contexts.client(identity(0))) is first
    for number in range(1, tls.CONTEXTS_MAX + 1):
        await contexts.client(identity(number))
    assert len(contexts._kept) == tls.CONTEXTS_MAX
    assert (await contexts.client(identity(0))) is not first


def test_network_is_named_in_the_protocol_name() -> None:
    assert tls.alpn(bytes(range(32))) == "potsherd/1:0001020304050607"


# hostile and broken clients


def stranger_context(chain: bytes | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([tls.alpn(NETWORK)])
    if chain is not None:
        tls._load_from_memory(context, chain)
    return context


def certified(key: Any, name: str, authority_seed: bytes) -> bytes:
    """A certificate and its private key as a hostile client would make them."""
    authority = Ed25519PrivateKey.from_private_bytes(authority_seed)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, certificates.AUTHORITY_NAME)])
        )
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC))
        .sign(authority, None)
    )
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem + certificate.public_bytes(Encoding.PEM)


async def is_served(listener: RealListener, context: ssl.SSLContext) -> bool:
    """TLS 1.3 tells a refused client at its first read."""
    try:
        peer = await RawPeer.dial(listener.address, context)
    except OSError:
        return False
    try:
        return await peer.read_record() == b"hello"
    except OSError:
        return False
    finally:
        peer.close()


async def test_clients_without_a_node_certificate_are_refused() -> None:
    mallory = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
    async with listening() as listener:
        good = certified(mallory, "mallory", certificates.AUTHORITY_SEED)
        assert await is_served(listener, stranger_context(good))
        foreign = certified(mallory, "mallory", b"x" * 32)
        assert not await is_served(listener, stranger_context(foreign))
        assert not await is_served(listener, stranger_context(None))
        other_kind = certified(
            ec.generate_private_key(ec.SECP256R1()), "m", certificates.AUTHORITY_SEED
        )
        assert not await is_served(listener, stranger_context(other_kind))
        old = stranger_context(good)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert not await is_served(listener, old)
        elsewhere = stranger_context(good)
        elsewhere.set_alpn_protocols(["h2"])
        assert not await is_served(listener, elsewhere)
        await assert_serves(listener)
        assert listener.refused == 5


async def test_name_in_a_certificate_proves_nothing() -> None:
    """Anybody can have a certificate in Anna's name; the key in it is what was proven."""
    seen: list[bytes] = []

    async def accept(stream: Stream) -> None:
        seen.append(stream.peer_key)
        await stream.write(b"hello")

    mallory = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
    async with listening(accept) as listener:
        chain = certified(mallory, ANNA.key.hex(), certificates.AUTHORITY_SEED)
        assert await is_served(listener, stranger_context(chain))
    assert seen == [mallory.public_key().public_bytes_raw()]


async def test_no_tickets_are_given() -> None:
    async with listening() as listener:
        context = await tls.Contexts().client(ANNA)
        peer = await RawPeer.dial(listener.address, context)
        await peer.take_tls()  # where tickets come before what is said, this would be one
        assert len(peer.tls.read(100)) == 33
        assert peer.tls.version() == "TLSv1.3"
        session = peer.tls.session
        assert session is None or not session.has_ticket
        peer.close()


async def test_garbage_instead_of_a_handshake_harms_nobody() -> None:
    async with listening() as listener:
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\xff\xff", bytes(100_000), b""):
            _, writer = await asyncio.open_connection(*listener.address)
            with contextlib.suppress(OSError):
                writer.write(garbage)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        await assert_serves(listener)


async def test_silent_connections_hold_a_handshake_place_only_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(real_net, "HANDSHAKES_MAX", 2)
    monkeypatch.setattr(real_net, "HANDSHAKE_TIMEOUT_S", 0.3)
    async with listening() as listener:
        silent = [await asyncio.open_connection(*listener.address) for _ in range(3)]
        await assert_serves(listener)
        for _, writer in silent:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def test_streams_of_one_listener_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_net, "STREAMS_ACCEPTED_MAX", 2)

    async def hold(stream: Stream) -> None:
        await stream.write(b"hello")
        with contextlib.suppress(PeerError):
            await stream.read_exactly(1)

    async with listening(hold) as listener:
        kept = [
            await RealNet().dial(listener.address, ANNA, BERT.key, timeout_s=5) for _ in range(2)
        ]
        for stream in kept:
            await stream.read_exactly(5)
        extra = await RealNet().dial(listener.address, ANNA, BERT.key, timeout_s=5)
        with pytest.raises(PeerError):
            await extra.read_exactly(5)
        extra.abort()
        await kept[0].close()
        await asyncio.sleep(0.1)
        await assert_serves(listener)
        kept[1].abort()


async def test_failing_handler_is_reported_and_its_stream_ends() -> None:
    async def fail(stream: Stream) -> None:
        raise ZeroDivisionError

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
    async with listening(fail) as listener:
        stream = await RealNet().dial(listener.address, ANNA, BERT.key, timeout_s=5)
        with pytest.raises(PeerError):
            await stream.read_exactly(1)
        stream.abort()
    assert [type(what["exception"]) for what in reported] == [ZeroDivisionError]


# servers that do not answer as they should


async def test_dialling_a_silent_host_ends_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address(*silent.getsockname())
        started = asyncio.get_running_loop().time()
        with pytest.raises(UnreachableError, match=r"0\.2 s"):
            await RealNet().dial(address, ANNA, BERT.key, timeout_s=0.2)
        assert asyncio.get_running_loop().time() - started < 2


async def test_dialling_something_else_is_no_peer() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = Address(*server.sockets[0].getsockname())
    with pytest.raises(PeerError, match="does not speak TLS") as caught:
        await RealNet().dial(address, ANNA, BERT.key, timeout_s=5)
    assert not isinstance(caught.value, UnreachableError)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("host", ["localhost", "example.org", "", "1.2.3", "a\0b"])
async def test_only_literal_addresses_are_dialled(host: str) -> None:
    """Names would be resolved in threads nobody bounds, and tell a resolver whom we talk to."""
    with pytest.raises(UnreachableError):
        await RealNet().dial(Address(host, 1), ANNA, BERT.key, timeout_s=1)
    with pytest.raises(PeerError):
        await RealNet().bind(Address(host, 0))


async def test_ipv6_works_where_there_is_any() -> None:
    try:
        listener = await RealNet().listen(Address("::1", 0), BERT, greet)
    except PeerError:
        pytest.skip("no IPv6 here")
    await assert_serves(listener)
    await listener.close()


async def test_cancelled_dial_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address(*silent.getsockname())
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            dialling = asyncio.create_task(RealNet().dial(address, ANNA, BERT.key, timeout_s=10))
            await asyncio.sleep(0.02)
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
        await asyncio.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) == before


# flow control


async def test_receiver_that_does_not_read_holds_a_bounded_amount() -> None:
    held: list[SealedStream] = []

    async def hold(stream: Stream) -> None:
        assert isinstance(stream, SealedStream)
        held.append(stream)
        await asyncio.sleep(3600)

    async with listening(hold) as listener:
        stream = await RealNet().dial(listener.address, ANNA, BERT.key, timeout_s=5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await stream.write(bytes(1 << 20))
        assert held[0].received == held[0]._end - held[0]._start == real_streams.BUFFER_BYTES
        assert held[0]._plain.nbytes == 0
        stream.abort()


async def test_connections_that_have_read_everything_hold_no_buffer() -> None:
    """Half a MiB each, that is most of a node's memory once it knows a few dozen others."""
    served: list[SealedStream] = []

    async def echo(stream: Stream) -> None:
        assert isinstance(stream, SealedStream)
        served.append(stream)
        for size in (5, 100_000, 5):
            await stream.write(await stream.read_exactly(size))
        await asyncio.sleep(3600)

    async with listening(echo) as listener:
        dials = [RealNet().dial(listener.address, ANNA, BERT.key, timeout_s=5) for _ in range(12)]
        streams = await asyncio.gather(*dials)
        for size in (5, 100_000, 5):
            sent = [os.urandom(size) for _ in streams]
            for stream, data in zip(streams, sent, strict=True):
                await stream.write(data)
            assert [await stream.read_exactly(size) for stream in streams] == sent
        assert len(served) == len(streams)
        assert [s for s in (*served, *streams) if s._buffer is not None] == []
        assert len(real_streams._SPARE._buffers) <= real_streams.SPARE_BUFFERS_MAX
        for stream in streams:
            stream.abort()


async def test_big_reads_fill_the_readers_own_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened where it is wanted, not copied from anywhere."""
    size = 8 << 20
    opened: dict[int, int] = {}
    open_into = Opener.open_into

    def count(self: Opener, record: memoryview, plain: memoryview) -> None:
        where = id(plain.obj)
        opened[where] = opened.get(where, 0) + plain.nbytes
        open_into(self, record, plain)

    async def send(stream: Stream) -> None:
        for _ in range(8):
            await stream.write(bytes(1 << 20))

    monkeypatch.setattr(Opener, "open_into", count)
    async with listening(send) as listener:
        stream = await RealNet().dial(listener.address, ANNA, BERT.key, timeout_s=5)
        buffer = bytearray(1 << 20)
        for _ in range(8):
            await stream.read_into(memoryview(buffer))
        assert opened == {id(buffer): size}
        await stream.close()


# datagrams


async def test_refused_datagrams_are_counted_not_raised() -> None:
    socket_ = await RealNet().bind(LOCAL)
    gone = await RealNet().bind(LOCAL)
    nobody = gone.address
    gone.close()
    socket_.send(bytes(100_000), nobody)
    assert socket_.unsent == 1
    other = await RealNet().bind(LOCAL)
    other.send(b"x", socket_.address)
    assert (await socket_.receive())[0] == b"x"
    socket_.close()
    other.close()


# real processes


SERVER = """
import asyncio, sys
from potsherd.node.real.net import RealNet
from potsherd.ports import Address, Identity

async def accept(stream):
    while True:
        await stream.write(await stream.read_exactly(1))

async def main():
    identity = Identity(bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2]), b"n" * 32)
    listener = await RealNet().listen(Address("127.0.0.1", 0), identity, accept)
    print(listener.address.port, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_killed_peer_breaks_the_stream_at_once() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(potsherd.__file__).parent.parent)}
    command = [sys.executable, "-c", SERVER, BERT.seed.hex(), BERT.key.hex()]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = await asyncio.to_thread(server.stdout.readline)
        address = Address("127.0.0.1", int(line))
        stream = await RealNet().dial(address, ANNA, BERT.key, timeout_s=5)
        await stream.write(b"x")
        assert await stream.read_exactly(1) == b"x"
        server.send_signal(signal.SIGKILL)
        async with asyncio.timeout(5):
            with pytest.raises(PeerError):
                await stream.read_exactly(1)
        stream.abort()
        with pytest.raises(UnreachableError):
            await RealNet().dial(address, ANNA, BERT.key, timeout_s=5)
