"""Writes LLVM IR, and the pieces that kernels are made of: BLAKE2b in lanes across blocks, ChaCha20 in lanes across counters.

One function text per vector width; no instruction set is named, LLVM picks the instructions of the CPU
it compiles for (docs/design/kernels.md). The IR holds no branch and no load that depends on content: only
block numbers and sizes steer it. The kernels themselves: `eris_ir.py`, and `gf_ir.py` for products.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = [
    "BLAKE2B_IV",
    "QUARTERS",
    "ROUNDS",
    "SIGMA",
    "IRFunction",
    "LaneHash",
    "chacha_block",
    "hash_lanes",
    "quarter",
    "signed",
]

BLAKE2B_IV = (
    0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
    0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
)  # fmt: skip
"""RFC 7693, section 2.6."""

SIGMA = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3),
    (11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4),
    (7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8),
    (9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13),
    (2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9),
    (12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11),
    (13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10),
    (6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5),
    (10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0),
)
"""RFC 7693, section 2.7: the order of message words in a round."""

ROUNDS = tuple(SIGMA[number % 10] for number in range(12))
"""The order of message words in each of BLAKE2b's rounds."""

QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
"""Which four words of the 4 x 4 state each quarter works on: columns, then diagonals."""

_CHACHA_CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)
"""RFC 8439, section 2.3."""


def signed(word: int, bits: int = 64) -> int:
    """How LLVM's text writes a constant."""
    return word - (1 << bits) if word >> (bits - 1) else word


class IRFunction:
    """The text of one function, with fresh names for its values."""

    def __init__(self, head: str) -> None:
        self.lines = [head, "entry:"]
        self._names = 0

    def name(self) -> str:
        self._names += 1
        return f"%v{self._names}"

    def do(self, text: str) -> str:
        """An instruction with a result."""
        name = self.name()
        self.lines.append(f"  {name} = {text}")
        return name

    def put(self, text: str) -> None:
        """An instruction without a result, or a label."""
        self.lines.append(text if text.endswith(":") else f"  {text}")

    def end(self) -> str:
        return "\n".join([*self.lines, "  ret void", "}", ""])

    def at(self, base: str, offset: str | int) -> str:
        """The address `base + offset` bytes."""
        return self.do(f"getelementptr i8, ptr {base}, i64 {offset}")

    def load(self, kind: str, address: str) -> str:
        return self.do(f"load {kind}, ptr {address}, align 1")

    def store(self, kind: str, value: str, address: str) -> None:
        self.put(f"store {kind} {value}, ptr {address}, align 1")

    def splat(self, lanes: int, bits: int, value: str | int) -> str:
        """A vector with the same value in each lane."""
        kind = f"<{lanes} x i{bits}>"
        if isinstance(value, int):
            return "<" + ", ".join([f"i{bits} {signed(value, bits)}"] * lanes) + ">"
        one = self.do(f"insertelement {kind} poison, i{bits} {value}, i32 0")
        return self.do(
            f"shufflevector {kind} {one}, {kind} poison, <{lanes} x i32> zeroinitializer"
        )

    def rotate(self, kind: str, bits: int, value: str, left: int) -> str:
        """Rotate left by a constant."""
        lanes = int(kind[1:].split()[0])
        by = self.splat(lanes, bits, left % bits)
        call = f"@llvm.fshl.v{lanes}i{bits}"
        return self.do(f"call {kind} {call}({kind} {value}, {kind} {value}, {kind} {by})")

    def transpose(self, kind: str, rows: Sequence[str]) -> list[str]:
        """Transpose as many vectors as a vector has lanes, by butterflies of two-source shuffles."""
        rows, lanes = list(rows), len(rows)
        stride = 1
        while stride < lanes:
            for i in range(lanes):
                if i & stride:
                    continue
                low = [j if not j & stride else lanes + j - stride for j in range(lanes)]
                high = [j + stride if not j & stride else lanes + j for j in range(lanes)]
                a, b = rows[i], rows[i + stride]
                rows[i] = self.shuffle(kind, a, b, low)
                rows[i + stride] = self.shuffle(kind, a, b, high)
            stride *= 2
        return rows

    def shuffle(self, kind: str, a: str, b: str, order: Iterable[int]) -> str:
        mask = [f"i32 {i}" for i in order]
        picks = f"<{len(mask)} x i32> <{', '.join(mask)}>"
        return self.do(f"shufflevector {kind} {a}, {kind} {b}, {picks}")

    def loop(self, count: str, label: str) -> str:
        """Open a loop that runs `count` (≥ 1) times and give its counter; close with `loop_end`."""
        self.put(f"br label %{label}")
        self.lines.append(f"{label}:")
        before = "%entry" if label.startswith("first") else f"%{label}.before"
        counter = f"%{label}.i"
        self.put(f"{counter} = phi i64 [ 0, {before} ], [ {counter}.next, %{label}.latch ]")
        self._open = (label, count)
        return counter

    def before(self, label: str) -> None:
        """A block of its own right before a loop that is not the function's first."""
        self.put(f"br label %{label}.before")
        self.lines.append(f"{label}.before:")

    def loop_end(self, label: str, count: str) -> None:
        self.put(f"br label %{label}.latch")
        self.lines.append(f"{label}.latch:")
        counter = f"%{label}.i"
        self.put(f"{counter}.next = add nuw nsw i64 {counter}, 1")
        self.put(f"%{label}.done = icmp eq i64 {counter}.next, {count}")
        self.put(f"br i1 %{label}.done, label %{label}.end, label %{label}")
        self.lines.append(f"{label}.end:")


def quarter(
    f: IRFunction,
    kind: str,
    bits: int,
    v: list[str],
    at: Sequence[int],
    x: str | None,
    y: str | None,
) -> None:
    """BLAKE2b's G (with message words x, y) or ChaCha20's quarter round (without)."""
    a, b, c, d = at
    turns = (-32, -24, -16, -63) if bits == 64 else (16, 12, 8, 7)
    for word, (first, second) in ((x, turns[:2]), (y, turns[2:])):
        total = f.do(f"add {kind} {v[a]}, {v[b]}")
        v[a] = f.do(f"add {kind} {total}, {word}") if word else total
        v[d] = f.rotate(kind, bits, f.do(f"xor {kind} {v[d]}, {v[a]}"), first)
        v[c] = f.do(f"add {kind} {v[c]}, {v[d]}")
        v[b] = f.rotate(kind, bits, f.do(f"xor {kind} {v[b]}, {v[c]}"), second)


def _load_words(f: IRFunction, lanes: int, pointers: Sequence[str], offset: str) -> list[str]:
    """The 16 message words of every lane's block at `offset`, a vector a word."""
    kind = f"<{lanes} x i64>"
    words: list[str] = []
    for start in range(0, 16, lanes):
        place = f.do(f"add nuw nsw i64 {offset}, {8 * start}")
        words += f.transpose(kind, [f.load(kind, f.at(p, place)) for p in pointers])
    return words


class LaneHash:
    """BLAKE2b of as many equal blocks as there are lanes: what stands before and behind the rounds.

    The function's arguments are %lanes (pointers), %size (bytes a lane), %state (where to start),
    %before (bytes that this state has seen) and %out (32 bytes a lane).
    """

    ARGUMENTS = (
        "ptr noalias readonly %lanes, i64 %size, ptr noalias readonly %state, i64 %before,"
        " ptr noalias %out"
    )

    def __init__(self, f: IRFunction, lanes: int) -> None:
        """Start states, and the loop over 128 bytes of each lane, open."""
        self._f, self._lanes = f, lanes
        self.kind = kind = f"<{lanes} x i64>"
        self._cells = [f.do(f"alloca {kind}, align 64") for _ in range(8)]
        for i, cell in enumerate(self._cells):
            word = f.load("i64", f.at("%state", 8 * i))
            f.put(f"store {kind} {f.splat(lanes, 64, word)}, ptr {cell}, align 64")
        pointers = [f.load("ptr", f.at("%lanes", 8 * i)) for i in range(lanes)]
        self._steps = f.do("lshr i64 %size, 7")
        self.counter = f.loop(self._steps, "first")
        self._offset = f.do(f"shl i64 {self.counter}, 7")
        self.words = _load_words(f, lanes, pointers, self._offset)

    def start(self) -> list[str]:
        """The 16 vectors that the rounds begin with."""
        f, kind = self._f, self.kind
        counted = f.do(f"add i64 {f.do(f'add i64 {self._offset}, 128')}, %before")
        last = f.do(f"icmp eq i64 {f.do(f'add i64 {self.counter}, 1')}, {self._steps}")
        final = f.do(f"sext i1 {last} to i64")
        v = self._chained() + [f.splat(self._lanes, 64, word) for word in BLAKE2B_IV]
        v[12] = f.do(f"xor {kind} {v[12]}, {f.splat(self._lanes, 64, counted)}")
        v[14] = f.do(f"xor {kind} {v[14]}, {f.splat(self._lanes, 64, final)}")
        return v

    def end(self, v: Sequence[str]) -> str:
        """After the rounds: the loop's end, the digests, and the text of the whole function."""
        f, kind = self._f, self.kind
        for i, (cell, before) in enumerate(zip(self._cells, self._chained(), strict=True)):
            mixed = f.do(f"xor {kind} {f.do(f'xor {kind} {v[i]}, {v[i + 8]}')}, {before}")
            f.put(f"store {kind} {mixed}, ptr {cell}, align 64")
        f.loop_end("first", self._steps)
        for i in range(4):
            value = f.do(f"load {kind}, ptr {self._cells[i]}, align 64")
            for lane in range(self._lanes):
                word = f.do(f"extractelement {kind} {value}, i32 {lane}")
                f.store("i64", word, f.at("%out", 32 * lane + 8 * i))
        return f.end()

    def _chained(self) -> list[str]:
        return [self._f.do(f"load {self.kind}, ptr {cell}, align 64") for cell in self._cells]


def hash_lanes(lanes: int) -> str:
    """hash_lanes: see LaneHash."""
    f = IRFunction(f"define internal void @hash_lanes({LaneHash.ARGUMENTS}) #0 {{")
    lane_hash = LaneHash(f, lanes)
    v = lane_hash.start()
    for order in ROUNDS:
        for q, at in enumerate(QUARTERS):
            words = (lane_hash.words[order[2 * q]], lane_hash.words[order[2 * q + 1]])
            quarter(f, lane_hash.kind, 64, v, at, *words)
    return lane_hash.end(v)


def chacha_block(lanes: int) -> str:
    """chacha_block(source, target, size, key, level): one ERIS block, counters 0 …, `lanes` at a time."""
    kind = f"<{lanes} x i32>"
    f = IRFunction(
        "define internal void @chacha_block(ptr readonly %source, ptr %target, i64 %size,"
        " ptr readonly %key, i32 %level) #0 {"
    )
    key = [f.splat(lanes, 32, f.load("i32", f.at("%key", 4 * i))) for i in range(8)]
    nonce = f.splat(lanes, 32, "%level")
    steps = f.do(f"udiv i64 %size, {64 * lanes}")
    counter = f.loop(steps, "first")
    number = f.do(f"trunc i64 {f.do(f'mul i64 {counter}, {lanes}')} to i32")
    ramp = "<" + ", ".join(f"i32 {i}" for i in range(lanes)) + ">"
    counters = f.do(f"add {kind} {f.splat(lanes, 32, number)}, {ramp}")
    zero = f.splat(lanes, 32, 0)
    start = [f.splat(lanes, 32, c) for c in _CHACHA_CONSTANTS] + key
    start += [counters, nonce, zero, zero]
    v = list(start)
    for _ in range(10):
        for at in QUARTERS:
            quarter(f, kind, 32, v, at, None, None)
    v = [f.do(f"add {kind} {a}, {b}") for a, b in zip(v, start, strict=True)]
    base = f.do(f"mul i64 {counter}, {64 * lanes}")
    for first in range(0, 16, lanes):
        for i, stream in enumerate(f.transpose(kind, v[first : first + lanes])):
            place = f.do(f"add i64 {base}, {64 * i + 4 * first}")
            text = f.load(kind, f.at("%source", place))
            f.store(kind, f.do(f"xor {kind} {text}, {stream}"), f.at("%target", place))
    f.loop_end("first", steps)
    return f.end()
