"""The text of the ERIS kernel: batches of blocks, a group of as many as there are lanes at a time.

    eris_encrypt(plain, cipher, pairs, blocks, block_size, level, state, keyed)
    blake2b_batch(data, digests, blocks, block_size, state)
    chacha20_batch(source, target, keys, blocks, block_size, level)

and for some vectors only (`BESIDE_BITS`):

    eris_encrypt_beside(…, stream_state)   as eris_encrypt, and BLAKE2b of the plain blocks as one stream
    blake2b_stream(data, steps, stream_state)

All sizes are multiples of 1,024 bytes, except that `blake2b_batch` takes multiples of 64, and a step of
`blake2b_stream` is 128 bytes; pointers need no alignment.
"""

from __future__ import annotations

from potsherd.kernels.ir import BLAKE2B_IV, IRFunction, chacha_block, hash_lanes, signed
from potsherd.kernels.stream_ir import BESIDE, BESIDE_BITS, blake2b_stream, hash_lanes_beside

__all__ = ["eris_module"]


def _group_pointers(f: IRFunction, lanes: int, base: str, group: str, out: str) -> None:
    """The addresses of a group's blocks; lanes past the end take the last block again."""
    for lane in range(lanes):
        number = f.do(f"add i64 {f.do(f'mul i64 {group}, {lanes}')}, {lane}")
        number = f.do(f"call i64 @llvm.umin.i64(i64 {number}, i64 %last)")
        address = f.at(base, f.do(f"mul i64 {number}, %block_size"))
        f.store("ptr", address, f.at(out, 8 * lane))


def _scatter(f: IRFunction, lanes: int, group: str, out: str, stride: int, offset: int) -> None:
    """Copy the lanes' digests from %digests to their places; lanes past the end write the last again.

    They hold the same digest as the last block, so the order of the stores does not matter.
    """
    for lane in range(lanes):
        number = f.do(f"add i64 {f.do(f'mul i64 {group}, {lanes}')}, {lane}")
        number = f.do(f"call i64 @llvm.umin.i64(i64 {number}, i64 %last)")
        place = f.do(f"add i64 {f.do(f'mul i64 {number}, {stride}')}, {offset}")
        value = f.load("<4 x i64>", f.at("%digests", 32 * lane))
        f.store("<4 x i64>", value, f.at(out, place))


def _open_groups(f: IRFunction, lanes: int) -> tuple[str, str]:
    f.put(f"%lanes = alloca [{lanes} x ptr], align 64")
    f.put(f"%digests = alloca [{32 * lanes} x i8], align 64")
    f.put("%last = sub i64 %blocks, 1")
    groups = f.do(f"udiv i64 {f.do(f'add i64 %blocks, {lanes - 1}')}, {lanes}")
    return groups, f.loop(groups, "first")


def _blake2b_batch(lanes: int) -> str:
    f = IRFunction(
        "define void @blake2b_batch(ptr %data, ptr %digests_out, i64 %blocks, i64 %block_size,"
        " ptr %state) #0 {"
    )
    groups, group = _open_groups(f, lanes)
    _group_pointers(f, lanes, "%data", group, "%lanes")
    f.put("call void @hash_lanes(ptr %lanes, i64 %block_size, ptr %state, i64 0, ptr %digests)")
    _scatter(f, lanes, group, "%digests_out", 32, 0)
    f.loop_end("first", groups)
    return f.end()


def _chacha20_batch() -> str:
    f = IRFunction(
        "define void @chacha20_batch(ptr %source, ptr %target, ptr %keys, i64 %blocks,"
        " i64 %block_size, i32 %level) #0 {"
    )
    block = f.loop("%blocks", "first")
    place = f.do(f"mul i64 {block}, %block_size")
    key = f.at("%keys", f.do(f"mul i64 {block}, 32"))
    source, target = f.at("%source", place), f.at("%target", place)
    f.put(
        f"call void @chacha_block(ptr {source}, ptr {target}, i64 %block_size, ptr {key}, i32 %level)"
    )
    f.loop_end("first", "%blocks")
    return f.end()


def _eris_encrypt(lanes: int, *, beside: bool = False) -> str:
    """Key, cipher and reference of a group of blocks while they are in the cache.

    With `beside` the plain blocks are hashed as one stream too: the first half of each group beside the
    keys, the second beside the references. Then `blocks` is a multiple of `lanes`.
    """
    name, more = ("eris_encrypt_beside", ", ptr %stream_state") if beside else ("eris_encrypt", "")
    f = IRFunction(
        f"define void @{name}(ptr %plain, ptr %cipher, ptr %pairs, i64 %blocks, i64 %block_size,"
        f" i32 %level, ptr %state, i64 %keyed{more}) #0 {{"
    )
    groups, group = _open_groups(f, lanes)
    half = f.do(f"mul i64 %block_size, {lanes // 2}")
    stream = f.at("%plain", f.do(f"mul i64 {f.do(f'shl i64 {half}, 1')}, {group}"))

    def hash_lanes_of(base: str, state: str, before: str, stream: str) -> None:
        _group_pointers(f, lanes, base, group, "%lanes")
        arguments = f"ptr %lanes, i64 %block_size, ptr {state}, i64 {before}, ptr %digests"
        if beside:
            f.put(f"call void @{BESIDE}({arguments}, ptr {stream}, ptr %stream_state)")
        else:
            f.put(f"call void @hash_lanes({arguments})")

    hash_lanes_of("%plain", "%state", "%keyed", stream)
    _scatter(f, lanes, group, "%pairs", 64, 32)
    for lane in range(lanes):
        number = f.do(f"add i64 {f.do(f'mul i64 {group}, {lanes}')}, {lane}")
        inside = f.do(f"icmp ule i64 {number}, %last")
        f.put(f"br i1 {inside}, label %lane{lane}, label %lane{lane}.end")
        f.lines.append(f"lane{lane}:")
        place = f.do(f"mul i64 {number}, %block_size")
        source, target = f.at("%plain", place), f.at("%cipher", place)
        key = f.at("%digests", 32 * lane)
        f.put(
            f"call void @chacha_block(ptr {source}, ptr {target}, i64 %block_size, ptr {key},"
            " i32 %level)"
        )
        f.put(f"br label %lane{lane}.end")
        f.lines.append(f"lane{lane}.end:")
    hash_lanes_of("%cipher", "@plain_state", "0", f.at(stream, half))
    _scatter(f, lanes, group, "%pairs", 64, 0)
    f.loop_end("first", groups)
    return f.end()


def _plain_state() -> str:
    """BLAKE2b's start state for an unkeyed digest of 32 bytes: IV with the parameter word in h[0]."""
    words = (BLAKE2B_IV[0] ^ 0x01010020, *BLAKE2B_IV[1:])
    body = ", ".join(f"i64 {signed(word)}" for word in words)
    return f"@plain_state = internal constant [8 x i64] [{body}], align 64\n"


def eris_module(vector_bits: int) -> str:
    """The module's text for vectors of 128, 256 or 512 bits."""
    wide, narrow = vector_bits // 64, vector_bits // 32
    declared = "".join(
        f"declare <{n} x i{b}> @llvm.fshl.v{n}i{b}(<{n} x i{b}>, <{n} x i{b}>, <{n} x i{b}>)\n"
        for n, b in ((wide, 64), (narrow, 32))
    )
    attributes = f'attributes #0 = {{ nounwind "prefer-vector-width"="{vector_bits}"'
    attributes += f' "min-legal-vector-width"="{vector_bits}" }}\n'
    texts = [
        _plain_state(),
        hash_lanes(wide),
        chacha_block(narrow),
        _blake2b_batch(wide),
        _chacha20_batch(),
        _eris_encrypt(wide),
    ]
    if vector_bits in BESIDE_BITS:
        texts += [blake2b_stream(), hash_lanes_beside(wide), _eris_encrypt(wide, beside=True)]
    return "".join(
        (
            *texts,
            declared,
            "declare i64 @llvm.fshl.i64(i64, i64, i64)\n",
            "declare i64 @llvm.umin.i64(i64, i64)\n",
            attributes,
        )
    )
