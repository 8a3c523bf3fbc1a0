"""Writes the LLVM IR of the GF(2^8) kernel: a matrix times columns of bytes, in vectors.

    gf_multiply(tables, k, groups, group_count, inputs, outputs, rows, in_stride, out_stride, size)

`inputs` and `outputs` are arrays of addresses; row r of input i begins at `inputs[i] + r * in_stride`.
`groups` lists (first output, count) with counts of 1 to GROUP_MAX, so that accumulators stay in registers.
`size` is the bytes of a cell, a multiple of 64. `tables` holds for output j and input i what the
instruction needs (`table_bytes`): with GFNI the 8 x 8 bit matrix of the coefficient (Intel's
VGF2P8AFFINEQB takes any matrix, so the polynomial is ours), else the products of the two nibbles.
"""

from __future__ import annotations

from potsherd.kernels.ir import IRFunction

__all__ = ["COLUMN_BYTES", "GROUP_MAX", "METHODS", "gf_module", "table_bytes"]

GROUP_MAX = 6
"""Outputs worked on together: 12 accumulators of the 16 or 32 registers."""
COLUMN_BYTES = 8192
"""Bytes of each input gone through by all groups before going on: k of them stay in the L2 cache."""

METHODS = {
    "gfni512": (512, "@llvm.x86.vgf2p8affineqb.512"),
    "gfni256": (256, "@llvm.x86.vgf2p8affineqb.256"),
    "avx2": (256, "@llvm.x86.avx2.pshuf.b"),
    "ssse3": (128, "@llvm.x86.ssse3.pshuf.b.128"),
    "neon": (128, "@llvm.aarch64.neon.tbl1.v16i8"),
}
"""Name: vector bits and the instruction that does the work."""


def table_bytes(method: str) -> int:
    """Bytes of table for one coefficient."""
    return 8 if method.startswith("gfni") else 32


class _Group:
    """gf_group_G(tables, k, inputs, outputs, offset, end): G outputs over bytes `offset` to `end`."""

    def __init__(self, method: str, count: int, unroll: int) -> None:
        self.method, self.count, self.unroll = method, count, unroll
        bits, self.instruction = METHODS[method]
        self.width = bits // 8
        self.kind = f"<{self.width} x i8>"
        self.f = IRFunction(
            f"define internal void @gf_group_{count}_{unroll}(ptr %tables, i64 %k, ptr %inputs,"
            " ptr %outputs, i64 %in_offset, i64 %out_offset, i64 %steps) #0 {"
        )

    def text(self) -> str:
        f, width = self.f, self.width
        cells = [[f.do(f"alloca {self.kind}, align 64") for _ in range(self.unroll)] for _ in range(self.count)]  # fmt: skip
        targets = [f.load("ptr", f.at("%outputs", 8 * o)) for o in range(self.count)]
        step = f.loop("%steps", "first")
        base = f.do(f"mul i64 {step}, {width * self.unroll}")
        for row in cells:
            for cell in row:
                f.put(f"store {self.kind} zeroinitializer, ptr {cell}, align 64")
        f.before("input")
        column = f.loop("%k", "input")
        self._input(column, base, cells)
        f.loop_end("input", "%k")
        place = f.do(f"add i64 %out_offset, {base}")
        for target, row in zip(targets, cells, strict=True):
            for u, cell in enumerate(row):
                value = f.do(f"load {self.kind}, ptr {cell}, align 64")
                f.store(self.kind, value, f.at(target, f.do(f"add i64 {place}, {width * u}")))
        f.loop_end("first", "%steps")
        return f.end()

    def _input(self, column: str, base: str, cells: list[list[str]]) -> None:
        """Add one input, times its coefficients, to the accumulators."""
        f, kind = self.f, self.kind
        source = f.load("ptr", f.at("%inputs", f.do(f"shl i64 {column}, 3")))
        place = f.do(f"add i64 %in_offset, {base}")
        texts = [
            f.load(kind, f.at(source, f.do(f"add i64 {place}, {self.width * u}")))
            for u in range(self.unroll)
        ]
        parts = [self._split(text) for text in texts]
        size = table_bytes(self.method)
        for o, row in enumerate(cells):
            number = f.do(f"add i64 {f.do(f'mul i64 %k, {o}')}, {column}")
            table = self._table(f.at("%tables", f.do(f"mul i64 {number}, {size}")))
            for part, cell in zip(parts, row, strict=True):
                total = f.do(f"load {kind}, ptr {cell}, align 64")
                for product in self._products(part, table):
                    total = f.do(f"xor {kind} {total}, {product}")
                f.put(f"store {kind} {total}, ptr {cell}, align 64")

    def _split(self, text: str) -> list[str]:
        if self.method.startswith("gfni"):
            return [text]
        f, kind = self.f, self.kind
        low = f.do(f"and {kind} {text}, {f.splat(self.width, 8, 15)}")
        return [low, f.do(f"lshr {kind} {text}, {f.splat(self.width, 8, 4)}")]

    def _table(self, address: str) -> list[str]:
        f = self.f
        if self.method.startswith("gfni"):
            lanes = self.width // 8
            wide = f.splat(lanes, 64, f.load("i64", address))
            return [f.do(f"bitcast <{lanes} x i64> {wide} to {self.kind}")]
        halves = [f.load("<16 x i8>", f.at(address, 16 * i)) for i in range(2)]
        order = [i % 16 for i in range(self.width)]
        return [f.shuffle("<16 x i8>", half, "poison", order) for half in halves]

    def _products(self, part: list[str], table: list[str]) -> list[str]:
        f, kind, call = self.f, self.kind, self.instruction
        if self.method.startswith("gfni"):
            return [f.do(f"call {kind} {call}({kind} {part[0]}, {kind} {table[0]}, i8 0)")]
        return [
            f.do(f"call {kind} {call}({kind} {products}, {kind} {nibbles})")
            for products, nibbles in zip(table, part, strict=True)
        ]


def _driver(method: str) -> str:
    """Rows, then columns of COLUMN_BYTES, then groups."""
    width = METHODS[method][0] // 8
    f = IRFunction(
        "define void @gf_multiply(ptr %tables, i64 %k, ptr %groups, i64 %group_count, ptr %inputs,"
        " ptr %outputs, i64 %rows, i64 %in_stride, i64 %out_stride, i64 %size) #0 {"
    )
    pieces = f.do(f"udiv i64 {f.do(f'add i64 %size, {COLUMN_BYTES - 1}')}, {COLUMN_BYTES}")
    row = f.loop("%rows", "first")
    in_base = f.do(f"mul i64 {row}, %in_stride")
    out_base = f.do(f"mul i64 {row}, %out_stride")
    f.before("piece")
    piece = f.loop(pieces, "piece")
    start = f.do(f"mul i64 {piece}, {COLUMN_BYTES}")
    left = f.do(f"sub i64 %size, {start}")
    length = f.do(f"call i64 @llvm.umin.i64(i64 {left}, i64 {COLUMN_BYTES})")
    steps = f.do(f"udiv i64 {length}, {2 * width}")
    in_place = f.do(f"add i64 {in_base}, {start}")
    out_place = f.do(f"add i64 {out_base}, {start}")
    done = f.do(f"mul i64 {steps}, {2 * width}")
    f.before("group")
    group = f.loop("%group_count", "group")
    entry = f.at("%groups", f.do(f"shl i64 {group}, 4"))
    first, count = f.load("i64", entry), f.load("i64", f.at(entry, 8))
    bytes_before = f.do(f"mul i64 {f.do(f'mul i64 {first}, %k')}, {table_bytes(method)}")
    tables = f.at("%tables", bytes_before)
    targets = f.at("%outputs", f.do(f"shl i64 {first}, 3"))
    cases = " ".join(f"i64 {c}, label %count{c}" for c in range(1, GROUP_MAX + 1))
    f.put(f"switch i64 {count}, label %counted [ {cases} ]")
    some, odd = f.name(), f.name()
    for c in range(1, GROUP_MAX + 1):
        arguments = f"ptr {tables}, i64 %k, ptr %inputs, ptr {targets}"
        f.lines.append(f"count{c}:")
        f.put(f"{some}.{c} = icmp ne i64 {steps}, 0")
        f.put(f"br i1 {some}.{c}, label %main{c}, label %tail{c}")
        f.lines.append(f"main{c}:")
        f.put(
            f"call void @gf_group_{c}_2({arguments}, i64 {in_place}, i64 {out_place}, i64 {steps})"
        )
        f.put(f"br label %tail{c}")
        f.lines.append(f"tail{c}:")
        f.put(f"{odd}.{c} = icmp ne i64 {done}, {length}")
        f.put(f"br i1 {odd}.{c}, label %rest{c}, label %counted")
        f.lines.append(f"rest{c}:")
        in_rest, out_rest = (
            f.do(f"add i64 {in_place}, {done}"),
            f.do(f"add i64 {out_place}, {done}"),
        )
        f.put(f"call void @gf_group_{c}_1({arguments}, i64 {in_rest}, i64 {out_rest}, i64 1)")
        f.put("br label %counted")
    f.lines.append("counted:")
    f.loop_end("group", "%group_count")
    f.loop_end("piece", pieces)
    f.loop_end("first", "%rows")
    return f.end()


def gf_module(method: str) -> str:
    """The module's text for one of METHODS."""
    bits, instruction = METHODS[method]
    kind = f"<{bits // 8} x i8>"
    last = ", i8 immarg" if method.startswith("gfni") else ""
    groups = [_Group(method, c, u).text() for c in range(1, GROUP_MAX + 1) for u in (1, 2)]
    return "".join(
        (
            *groups,
            _driver(method),
            f"declare {kind} {instruction}({kind}, {kind}{last})\n",
            "declare i64 @llvm.umin.i64(i64, i64)\n",
            f'attributes #0 = {{ nounwind "prefer-vector-width"="{bits}"'
            f' "min-legal-vector-width"="{bits}" }}\n',
        )
    )
