"""The NEON tile, compiled to assembly for AArch64 on whatever machine this is: vector FMA, in registers, no calls."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from assembly import loops

from cllm_cli.kernels.jit import JIT_OFF
from cllm_cli.kernels.simd import TILES, UNROLL

pytestmark = pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")

# One function a piece, named and typed as what emits it; the assembly of all of them as a JSON object.
PROGRAM = """
import functools, json
import cllm_cli.kernels.jit as jit
jit.cpu_features = lambda: frozenset({"neon"})
import llvmlite.binding as llvm
from llvmlite import ir
from cllm_cli.kernels import gemv, packing, simd

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
target = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu="neoverse-n1", opt=3)
size, flag = ir.IntType(64), ir.IntType(1)

def assembly(real, shape, emit):
    module = ir.Module("neon")
    module.triple = target.triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), shape), "piece")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emit(builder, real, args=function.args)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    passes = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    return target.emit_assembly(parsed)

found = {}
for dtype, real, itemsize in [("float32", ir.FloatType(), 4), ("float64", ir.DoubleType(), 8)]:
    place = real.as_pointer()
    tile, sums = [size, place, place, place, size, place, size, flag, size], [place, place, place, size, size]
    for rows in (*simd.TILE.lower, simd.MR):
        found[f"tile of {rows}, {dtype}"] = assembly(real, tile, functools.partial(simd.emit_tile, rows=rows))
    row_sums = functools.partial(gemv.emit_row_sums, rows=gemv.ROWS)
    found[f"row sums, {dtype}"] = assembly(real, sums, row_sums)
    found[f"column sums, {dtype}"] = assembly(real, sums, gemv.emit_column_sums)
    transpose = functools.partial(packing.emit_transpose, itemsize=itemsize, height=simd.columns(itemsize))
    found[f"transpose, {dtype}"] = assembly(real, [place, place, size, size], transpose)
print(json.dumps(found))
"""

precisions = pytest.mark.parametrize("dtype", ["float32", "float64"])
LANES = {"float32": "4s", "float64": "2d"}


@pytest.fixture(scope="module")
def assembly():
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_is_called(assembly):
    assert len(assembly) == 10
    for piece, text in assembly.items():
        assert "\tret\n" in text
        assert not re.search(r"\tblr?\t", text), piece


@precisions
@pytest.mark.parametrize("piece", ["tile of 4", "tile of 8", "row sums", "column sums"])
def test_sums_are_vector_fma(assembly, piece, dtype):
    found = re.findall(rf"\t(fml[as]|fmul|fadd)\tv\d+\.{LANES[dtype]}", assembly[f"{piece}, {dtype}"])
    assert "fmla" in found
    assert "fmul" not in found


@precisions
def test_vectors_are_transposed_in_registers(assembly, dtype):
    assert re.search(rf"\t(zip|uzp|trn)[12]\tv\d+\.{LANES[dtype]}", assembly[f"transpose, {dtype}"])


@precisions
@pytest.mark.parametrize("rows", [4, 8])
def test_the_inner_loop_keeps_its_sums_in_registers(assembly, rows, dtype):
    """Some steps of k: an FMA for each row and vector, every sum in a register of its own, the stack untouched."""
    longest = max(loops(assembly[f"tile of {rows}, {dtype}"]), key=len)
    sums = [match[1] for line in longest if (match := re.match(r"fmla\s+(v\d+)\.", line))]
    assert len(sums) == UNROLL * rows * TILES["neon"].vectors
    assert len(set(sums)) == rows * TILES["neon"].vectors
    assert not [line for line in longest if "[sp" in line]
