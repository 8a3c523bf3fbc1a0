"""BLAKE2b of one stream in the general registers, alone or beside the lanes of many blocks.

One stream cannot be spread over lanes: each step of 128 bytes waits for the one before. But it leaves the
vector units idle, as the lanes leave the general registers; a core that is wide enough does both in
little more than the time of the stream. That wants their instructions side by side: half a round of the
stream follows each quarter of the lanes' round, and code that stays in the caches: the loop below holds
one step of the stream, and rounds of the lanes that load their words by a table.

A stream's state is ten words: the eight chained ones, the bytes hashed, and a last word that is all ones
when the next step is the last (RFC 7693, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from potsherd.kernels.ir import BLAKE2B_IV, QUARTERS, ROUNDS, IRFunction, LaneHash, quarter, signed

__all__ = ["BESIDE", "BESIDE_BITS", "STEP_BYTES", "blake2b_stream", "hash_lanes_beside"]

BESIDE = "hash_lanes_beside"
"""The name of the function."""
BESIDE_BITS = (512,)
"""Vectors for which it is worth it. With 256 and 128 bits both together were no faster than one by one."""

STEP_BYTES = 128
"""One step of a stream."""
_COUNTED, _LAST = 64, 72
"""Where these words of the state lie."""


def _stream_step(f: IRFunction, step: str, v: list[str]) -> Iterator[Sequence[int]]:
    """One step at the address `step`: stops behind each quarter and says which words it was; `v` are all."""
    kept = [f.at("%stream_state", 8 * i) for i in range(8)]
    h = [f.load("i64", place) for place in kept]
    counter = f.at("%stream_state", _COUNTED)
    counted = f.do(f"add i64 {f.load('i64', counter)}, {STEP_BYTES}")
    f.store("i64", counted, counter)
    v[:] = h + [str(signed(word)) for word in BLAKE2B_IV]
    v[12] = f.do(f"xor i64 {counted}, {v[12]}")
    v[14] = f.do(f"xor i64 {f.load('i64', f.at('%stream_state', _LAST))}, {v[14]}")
    for order in ROUNDS:
        for q, at in enumerate(QUARTERS):
            _stream_quarter(f, v, at, *(f.at(step, 8 * word) for word in order[2 * q : 2 * q + 2]))
            yield at
    for i, place in enumerate(kept):
        mixed = f.do(f"xor i64 {f.do(f'xor i64 {v[i]}, {v[i + 8]}')}, {h[i]}")
        f.store("i64", mixed, place)


def _stream_quarter(f: IRFunction, v: list[str], at: Sequence[int], x: str, y: str) -> None:
    """BLAKE2b's G on single words; x and y are where the message words lie."""
    a, b, c, d = at
    for word, first, second in ((x, 32, 40), (y, 48, 1)):
        # the word goes first: the sum with it need not wait for the quarter before
        total = f.do(f"add i64 {v[a]}, {f.load('i64', word)}")
        v[a] = f.do(f"add i64 {total}, {v[b]}")
        v[d] = _rotate(f, f.do(f"xor i64 {v[d]}, {v[a]}"), first)
        v[c] = f.do(f"add i64 {v[c]}, {v[d]}")
        v[b] = _rotate(f, f.do(f"xor i64 {v[b]}, {v[c]}"), second)


def _rotate(f: IRFunction, value: str, left: int) -> str:
    return f.do(f"call i64 @llvm.fshl.i64(i64 {value}, i64 {value}, i64 {left})")


def blake2b_stream() -> str:
    """blake2b_stream(data, steps, stream_state): hash the next `steps` (≥ 1) times 128 bytes."""
    f = IRFunction(
        "define void @blake2b_stream(ptr noalias readonly %data, i64 %steps,"
        " ptr noalias %stream_state) #0 {"
    )
    counter = f.loop("%steps", "first")
    step = f.at("%data", f.do(f"mul i64 {counter}, {STEP_BYTES}"))
    for _ in _stream_step(f, step, []):
        pass
    f.loop_end("first", "%steps")
    return f.end()


def hash_lanes_beside(lanes: int) -> str:
    """hash_lanes_beside: see LaneHash; besides `lanes` / 2 · %size bytes at %stream are hashed as a stream."""
    f = IRFunction(
        f"define internal void @{BESIDE}({LaneHash.ARGUMENTS}, ptr noalias readonly %stream,"
        " ptr noalias %stream_state) #0 {"
    )
    steps = lanes // 2  # of the stream, for one of the lanes
    rounds = len(ROUNDS) // steps  # of the lanes, for one step of the stream
    kind = f"<{lanes} x i64>"
    held = [f.do(f"alloca {kind}, align 64") for _ in range(16)]
    table = f.do(f"alloca [{16 * 8 * lanes} x i8], align 64")
    lane_hash = LaneHash(f, lanes)
    for i, word in enumerate(lane_hash.words):
        f.put(f"store {kind} {word}, ptr {f.at(table, 8 * lanes * i)}, align 64")
    for place, vector in zip(held, lane_hash.start(), strict=True):
        f.put(f"store {kind} {vector}, ptr {place}, align 64")
    f.before("inner")
    number = f.loop(str(steps), "inner")
    done = f.do(f"add i64 {f.do(f'mul i64 {lane_hash.counter}, {steps}')}, {number}")
    step = f.at("%stream", f.do(f"mul i64 {done}, {STEP_BYTES}"))
    order = f.at("@lane_words", f.do(f"mul i64 {number}, {2 * 16 * rounds}"))
    v = [f.do(f"load {kind}, ptr {place}, align 64") for place in held]
    _rounds_beside(f, lanes, rounds, v, (table, order), step)
    for place, vector in zip(held, v, strict=True):
        f.put(f"store {kind} {vector}, ptr {place}, align 64")
    f.loop_end("inner", str(steps))
    v = [f.do(f"load {kind}, ptr {place}, align 64") for place in held]
    return _lane_words(lanes) + lane_hash.end(v)


def _rounds_beside(
    f: IRFunction, lanes: int, rounds: int, v: list[str], words: tuple[str, str], step: str
) -> None:
    """`rounds` of the lanes, their words from a table in an order that is read too, and one step."""
    kind = f"<{lanes} x i64>"
    table, order = words
    s: list[str] = []
    stream = _stream_step(f, step, s)
    for number in range(8 * rounds):
        at = QUARTERS[number % 8]
        chosen = []
        for place in (f.at(order, 4 * number), f.at(order, 4 * number + 2)):
            offset = f.do(f"zext i16 {f.do(f'load i16, ptr {place}, align 2')} to i64")
            chosen.append(f.do(f"load {kind}, ptr {f.at(table, offset)}, align 64"))
        quarter(f, kind, 64, v, at, *chosen)
        here: Sequence[int] = at
        for _ in range(96 // (8 * rounds)):
            here = next(stream)
        v[at[0]], s[here[0]] = _tie(f, kind, v[at[0]], s[here[0]])
    for _ in stream:
        pass


def _tie(f: IRFunction, kind: str, vector: str, word: str) -> tuple[str, str]:
    """Both values again, from an empty piece of assembly: LLVM cannot schedule the one far from the other."""
    pair = f"{{ i64, {kind} }}"
    both = f.do(f'call {pair} asm "", "=r,=v,0,1"(i64 {word}, {kind} {vector})')
    return f.do(f"extractvalue {pair} {both}, 1"), f.do(f"extractvalue {pair} {both}, 0")


def _lane_words(lanes: int) -> str:
    """Where the words of each round lie in the table: offsets in bytes, in the order of their use."""
    offsets = [8 * lanes * word for order in ROUNDS for word in order]
    body = ", ".join(f"i16 {offset}" for offset in offsets)
    return f"@lane_words = internal constant [{len(offsets)} x i16] [{body}], align 64\n"
