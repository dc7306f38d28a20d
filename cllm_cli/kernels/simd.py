"""What Numba has no words for: the matrix multiplication's micro-kernel in vector FMA, and the threads.

Each intrinsic has a plain twin that serves when the JIT is off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cllm_cli.kernels.jit import cpu_features, twin
from cllm_cli.kernels.pointers import emit_prefetch


@dataclass(frozen=True)
class Tile:
    """The micro-kernel's shape: `rows` rows by `vectors` vectors of `vector_bytes` bytes, held in registers.

    Fewer rows are computed by the lowest of the `lower` tiles that has them, or by the whole one. `block_bytes` of A
    are best where the second-level cache has `cache_bytes`, as the common CPUs that the tile is for have at least.
    """

    rows: int
    vectors: int
    vector_bytes: int
    lower: tuple[int, ...]
    block_bytes: int
    cache_bytes: int


# A register each for the accumulators, the row of B and the broadcast of A: 32, 16, 32 and 16 registers.
TILES = {
    "avx512f": Tile(
        rows=14, vectors=2, vector_bytes=64, lower=(4, 8), block_bytes=560 * 2**10, cache_bytes=1024 * 2**10
    ),
    "fma": Tile(rows=6, vectors=2, vector_bytes=32, lower=(4,), block_bytes=320 * 2**10, cache_bytes=512 * 2**10),
    "neon": Tile(rows=8, vectors=3, vector_bytes=16, lower=(4,), block_bytes=320 * 2**10, cache_bytes=512 * 2**10),
    "": Tile(rows=4, vectors=2, vector_bytes=16, lower=(), block_bytes=160 * 2**10, cache_bytes=256 * 2**10),
}


def tile_for(features: frozenset[str]) -> Tile:
    """The first tile of the table whose feature the CPU has; the last one needs none."""
    return next(tile for feature, tile in TILES.items() if not feature or feature in features)


TILE = tile_for(cpu_features())
MR = TILE.rows
SECOND_LEVEL = Path("/sys/devices/system/cpu/cpu0/cache/index2")
MOST_CACHE = 2 * 2**20  # bytes; larger blocks were not measured


@functools.cache
def block_bytes() -> int:
    """Bytes of a block of A: the tile's, and all that a thread's part of the second-level cache has beyond the tile's.

    Of a cache that is said to be larger than MOST_CACHE no more is believed, virtual machines guess.
    """
    try:
        size = int((SECOND_LEVEL / "size").read_text().strip().removesuffix("K")) * 2**10  # "2048K"
        sharing = int((SECOND_LEVEL / "shared_cpu_map").read_text().replace(",", ""), 16).bit_count()
        cache = min(size // sharing, MOST_CACHE)
    except (OSError, ValueError, ZeroDivisionError):
        cache = TILE.cache_bytes
    return TILE.block_bytes + max(0, cache - TILE.cache_bytes)


def _plain_width(place: Any) -> int:
    return TILE.vectors * TILE.vector_bytes // place.dtype.itemsize


@twin(_plain_width)
@intrinsic
def panel_width(typingctx: Any, place: Any) -> Any:
    """panel_width(pointer): NR, the columns of the micro-kernel's tile, a constant of the element type."""
    if not isinstance(place, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, columns(place.dtype.bitwidth // 8))

    return types.intp(place), codegen


def columns(itemsize: int) -> int:
    """NR for elements of `itemsize` bytes."""
    return TILE.vectors * TILE.vector_bytes // itemsize


def _plain_microkernel(
    k: int, a: Any, b: Any, c: Any, ldc: int, start: Any, ld_start: int, add: bool, high: int
) -> None:
    nr = _plain_width(c)
    panel_a = a[: k * MR].reshape(k, MR).astype(np.float64)
    panel_b = b[: k * nr].reshape(k, nr).astype(np.float64)
    product = panel_a.T @ panel_b
    for i in range(high):
        first = start[i * ld_start : i * ld_start + nr] if add else 0.0
        c[i * ldc : i * ldc + nr] = product[i].astype(c.dtype) + first


@twin(_plain_microkernel)
@intrinsic
def microkernel(
    typingctx: Any, k: Any, a: Any, b: Any, c: Any, ldc: Any, start: Any, ld_start: Any, add: Any, high: Any
) -> Any:
    """microkernel(k, a, b, c, ldc, start, ld_start, add, high): a tile of C from a panel of A and a panel of B.

        c[i·ldc + j] = (start[i·ld_start + j] if add else 0) + Σ_p a[p·MR + i] · b[p·NR + j]    i < high ≤ MR, j < NR

    `start` is C itself to accumulate, a bias row with ld_start = 0, or anything when `add` is false. The sum runs over
    p in order, one FMA a term, so it does not depend on where the tile lies. (Goto & van de Geijn 2008, "Anatomy of
    High-Performance Matrix Multiplication"; Van Zee & van de Geijn 2015, "BLIS".)"""
    if not isinstance(c, types.CPointer):
        return None

    def emit(builder: Any, real: Any, args: Any) -> None:
        for rows in TILE.lower:
            with builder.if_then(builder.icmp_signed("<=", args[-1], args[-1].type(rows))):
                emit_tile(builder, real, rows, args)
                builder.ret_void()
        emit_tile(builder, real, MR, args)

    size = types.intp
    return types.void(size, c, c, c, size, c, size, types.boolean, size), as_function("microkernel", c.dtype, emit)


class Vectors:
    """LLVM code that works on whole vectors of an element type."""

    def __init__(self, builder: Any, real: Any) -> None:
        self.builder, self.itemsize = builder, {"float": 4, "double": 8}[str(real)]
        self.lanes = TILE.vector_bytes // self.itemsize
        self.type = ir.VectorType(real, self.lanes)
        # One instruction where the CPU has it, two where it has not; llvm.fma would call a library function there.
        self._fma = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(self.type, [self.type] * 3),
            f"llvm.fmuladd.v{self.lanes}f{8 * self.itemsize}",
        )

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a·b + c"""
        return self.builder.call(self._fma, [a, b, c])

    def load(self, place: Any, offset: Any) -> Any:
        """The vector at `offset` elements past a pointer."""
        return self.builder.load(self._at(place, offset), align=self.itemsize)

    def store(self, value: Any, place: Any, offset: Any) -> None:
        """Writes the vector at `offset` elements past a pointer."""
        self.builder.store(value, self._at(place, offset), align=self.itemsize)

    def spread(self, value: Any) -> Any:
        """An element in every lane."""
        nothing, number = ir.Constant(self.type, ir.Undefined), ir.IntType(32)
        one = self.builder.insert_element(nothing, value, number(0))
        return self.builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(number, self.lanes), None))

    def _at(self, place: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(place, [offset]), self.type.as_pointer())


def as_function(name: str, real: Any, emit: Callable[[Any, Any, Any], None]) -> Any:
    """An intrinsic's code as a function of its own, not inlined: LLVM optimises one copy, not one a call."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        shape = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
        function = cgutils.get_or_insert_function(builder.module, shape, f"cllm_{name}_{real.name}")
        if function.is_declaration:
            function.attributes.add("noinline")
            inside = ir.IRBuilder(function.append_basic_block("entry"))
            emit(inside, context.get_value_type(real), function.args)
            inside.ret_void()
        builder.call(function, args)
        return context.get_dummy_value()

    return codegen


def _plain_thread_count() -> int:
    return 1


@twin(_plain_thread_count)
@intrinsic
def thread_count(typingctx: Any) -> Any:
    """thread_count(): the threads of parallel loops. Numba's own get_num_threads() keeps a kernel out of the cache."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # The C function returns an int; Numba's parallel loops declare it wider, and a module can have one declaration.
        size = context.get_value_type(types.intp)
        count = builder.call(
            cgutils.get_or_insert_function(builder.module, ir.FunctionType(size, []), "get_num_threads"), []
        )
        return builder.sext(builder.trunc(count, ir.IntType(32)), size)

    return types.intp(), codegen


UNROLL = 2


def emit_tile(builder: Any, real: Any, rows: int, args: Any) -> None:
    """The LLVM code of a tile of `rows` rows: a loop of UNROLL steps of k, a loop of one, and the write to C."""
    k, a, b, c, ldc, start, ld_start, add, high = args
    code, size = Vectors(builder, real), k.type
    lanes, vectors = code.lanes, TILE.vectors
    width = vectors * lanes

    def step(sums: list[Any], at_a: Any, at_b: Any, ahead: int) -> list[Any]:
        row_b = [code.load(at_b, size(ahead * width + v * lanes)) for v in range(vectors)]
        new = []
        for i in range(rows):
            value = code.spread(builder.load(builder.gep(at_a, [size(ahead * MR + i)])))
            new += [code.fma(value, row_b[v], sums[i * vectors + v]) for v in range(vectors)]
        return new

    def loop(name: str, sums: list[Any], at_a: Any, at_b: Any, count: Any, unroll: int) -> tuple[list[Any], Any, Any]:
        before = builder.block
        head = builder.append_basic_block(f"{name}.head")
        body = builder.append_basic_block(f"{name}.body")
        done = builder.append_basic_block(f"{name}.done")
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(size)
        phi_a, phi_b = builder.phi(at_a.type), builder.phi(at_b.type)
        phis = [builder.phi(code.type) for _ in sums]
        builder.cbranch(builder.icmp_signed("<", index, count), body, done)
        builder.position_at_end(body)
        new = list(phis)
        for ahead in range(unroll):
            new = step(new, phi_a, phi_b, ahead)
            # No load moves over this. The tile takes all registers but one: where LLVM loads the next step's row of B
            # early, as it does for some CPUs, sums go to memory and back in each step.
            builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)
        next_a = builder.gep(phi_a, [size(unroll * MR)])
        next_b = builder.gep(phi_b, [size(unroll * width)])
        next_index = builder.add(index, size(1))
        after = builder.block
        builder.branch(head)
        for phi, first, later in [
            (index, size(0), next_index),
            (phi_a, at_a, next_a),
            (phi_b, at_b, next_b),
            *zip(phis, sums, new, strict=True),
        ]:
            phi.add_incoming(first, before)
            phi.add_incoming(later, after)
        builder.position_at_end(done)
        return phis, phi_a, phi_b

    for i in range(rows):  # the tile of C arrives while the sums are made
        for v in range(vectors):
            emit_prefetch(builder, c, builder.add(builder.mul(size(i), ldc), size(v * lanes)), write=True)
    zero = ir.Constant(code.type, None)
    sums: list[Any] = [zero] * (rows * vectors)
    sums, at_a, at_b = loop("unrolled", sums, a, b, builder.sdiv(k, size(UNROLL)), UNROLL)
    sums, _, _ = loop("single", sums, at_a, at_b, builder.srem(k, size(UNROLL)), 1)

    def write(with_start: bool) -> None:
        for i in range(rows):
            with builder.if_then(builder.icmp_signed("<", size(i), high), likely=True):
                for v in range(vectors):
                    value = sums[i * vectors + v]
                    if with_start:
                        at = builder.add(builder.mul(size(i), ld_start), size(v * lanes))
                        value = builder.fadd(code.load(start, at), value)
                    code.store(value, c, builder.add(builder.mul(size(i), ldc), size(v * lanes)))

    with builder.if_else(add) as (then, otherwise):
        with then:
            write(True)
        with otherwise:
            write(False)
