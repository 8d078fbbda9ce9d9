"""The Triton kernel without a GPU: what it computes, by Triton's interpreter, and that it compiles.

What interprets a kernel is chosen when Triton is imported, so that happens in another process.
"""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="needs triton, which is for Linux alone")

# Every format and mixture of dtypes, on shapes with one of more than a block, none a multiple of
# it; against the formula in float64, rounded once to what the gradient is kept in.
INTERPRETED = """
import json, torch
from regularizers import fused
from regularizers.formats import keep, whole

shapes = {"bias": (7,), "weight": (129, 67), "experts": (5, 33, 41), "kernel": (300, 1, 4)}
found = []
for name, shape in shapes.items():
    for form in ("float32", "bfloat16", "factored"):
        for dtype in (torch.float32, torch.bfloat16):
            for anchored in (torch.float32, torch.bfloat16):
                drawn = torch.Generator().manual_seed(0)
                theta, anchor, raw = (torch.rand(shape, generator=drawn) for _ in range(3))
                theta, anchor, weight = theta.to(dtype), anchor.to(anchored), keep(raw, form)
                gradient = torch.full(shape, 0.5, dtype=dtype)
                fused.pull(gradient, theta, anchor, weight, 12.5)
                away = theta.double() - anchor.double()
                pull = 12.5 * whole(weight).double() * away
                off = (gradient.double() - (0.5 + pull)).abs() / (0.5 + pull.abs())
                square = float((whole(weight).double() * away**2).sum())
                penalty = float(fused.weighted_square(theta, anchor, weight)) / square
                found.append([name, form, str(dtype), float(off.max()), penalty])
print(json.dumps(found))
"""

# As Triton's launcher does where the pointers are aligned and the number of elements is a multiple
# of 16, as a weight's of the released sizes is.
COMPILED = """
import itertools, json, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from regularizers.fused import BLOCK_ELEMENTS
from regularizers.fused_kernel import anchor_kernel

found = []
kinds = [(False, "*fp32"), (False, "*bf16"), (True, "*fp32")]
for capability, (factored, weight), pulls in itertools.product([80, 90, 100], kinds, [True, False]):
    types = {
        "out_at": "*fp32", "theta_at": "*fp32", "anchor_at": "*bf16", "weight_at": weight,
        "columns_at": weight, "strength": "fp32", "num_elements": "i64", "num_rows": "i32",
        "num_columns": "i32", "PULLS": "constexpr", "FACTORED": "constexpr", "BLOCK": "constexpr",
    }
    source = ASTSource(
        anchor_kernel,
        types,
        constexprs={"PULLS": pulls, "FACTORED": factored, "BLOCK": BLOCK_ELEMENTS},
        attrs={(place,): [["tt.divisibility", 16]] for place in (0, 1, 2, 3, 4, 6)},
    )
    built = triton.compile(source, GPUTarget("cuda", capability, 32), {"num_warps": 8})
    wide, all_loads = (built.asm["ptx"].count(f"ld.global{of}") for of in (".v4", ""))
    found.append([[capability, weight, factored, pulls], len(built.asm["cubin"]), wide, all_loads])
print(json.dumps(found))
"""


def ran(script, **environment):
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_it_computes_is_the_formula():
    found = ran(INTERPRETED, TRITON_INTERPRET="1")
    assert len(found) == 4 * 3 * 2 * 2
    for name, form, dtype, off, penalty in found:
        # The interpreter cuts bfloat16 off where a GPU rounds it.
        assert off < (1e-6 if dtype == "torch.float32" else 2**-7), (name, form, dtype)
        assert penalty == pytest.approx(1, rel=1e-6), (name, form, dtype)


def test_it_compiles_for_gpus_and_reads_wide(tmp_path):
    found = ran(COMPILED, TRITON_CACHE_DIR=str(tmp_path))
    assert len(found) == 3 * 3 * 2
    for built, size, wide, loads in found:
        assert size > 0, built
        # 16 bytes a load; of a factored importance rows and columns come one by one.
        is_factored = built[2]
        assert wide > 0 if is_factored else wide == loads, built
