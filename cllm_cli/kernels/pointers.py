"""Pointers into arrays, that Numba has no words for.

A pointer is an address with an element type and nothing else, so one compiled function serves arrays of any rank and
any leading dimension. Nothing here checks bounds. The plain twin of a pointer is a 1-D view.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cllm_cli.kernels.jit import twin


def _plain_pointer(array: Any, offset: int) -> Any:
    return array.reshape(-1)[offset:]


@twin(_plain_pointer)
@intrinsic
def pointer(typingctx: Any, array: Any, offset: Any) -> Any:
    """pointer(array, offset): the address of element `offset` of a C-contiguous array, in row-major order."""
    if not (isinstance(array, types.Array) and array.layout == "C"):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        struct = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.gep(struct.data, [args[1]])

    return types.CPointer(array.dtype)(array, types.intp), codegen


def _plain_advance(place: Any, offset: int) -> Any:
    return place[offset:]


@twin(_plain_advance)
@intrinsic
def advance(typingctx: Any, place: Any, offset: Any) -> Any:
    """advance(pointer, offset): the address `offset` elements on."""
    if not isinstance(place, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return place(place, types.intp), codegen


def _plain_load(place: Any, offset: int) -> Any:
    return place[offset]


@twin(_plain_load)
@intrinsic
def load(typingctx: Any, place: Any, offset: Any) -> Any:
    """load(pointer, offset): the element there."""
    if not isinstance(place, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.gep(args[0], [args[1]]))

    return place.dtype(place, types.intp), codegen


def _plain_store(place: Any, offset: int, value: Any) -> None:
    place[offset] = value


@twin(_plain_store)
@intrinsic
def store(typingctx: Any, place: Any, offset: Any, value: Any) -> Any:
    """store(pointer, offset, value)"""
    if not isinstance(place, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(place, types.intp, place.dtype), codegen


def _plain_compact() -> None:
    """Nothing to see."""


@twin(_plain_compact)
@intrinsic
def compact(typingctx: Any) -> Any:
    """compact(): the function that calls it stays small and by itself; its loops are for edges, not to be unrolled.

    LLVM would spend more time on them than on all that runs often.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for attribute in ("optsize", "noinline"):
            builder.function.attributes.add(attribute)
        return context.get_dummy_value()

    return types.void(), codegen


def _plain_prefetch(place: Any, offset: int) -> None:
    """Nothing to see."""


@twin(_plain_prefetch)
@intrinsic
def prefetch(typingctx: Any, place: Any, offset: Any) -> Any:
    """prefetch(pointer, offset): asks for the cache line there, to be read soon; an address of nothing does no harm."""
    if not isinstance(place, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit_prefetch(builder, *args)
        return context.get_dummy_value()

    return types.void(place, types.intp), codegen


def emit_prefetch(builder: Any, place: Any, offset: Any, write: bool = False) -> None:
    """The LLVM code that asks for a cache line: to be read, into the second level; to be written, into the first."""
    number = ir.IntType(32)
    shape = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, shape, "llvm.prefetch.p0")
    locality, data = number(3 if write else 2), number(1)
    builder.call(function, [builder.gep(place, [offset]), number(int(write)), locality, data])
