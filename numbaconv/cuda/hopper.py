"""Instructions of Hopper alone (sm_90a): products of four warps, read from shared memory.

PTX ISA, section "Asynchronous warpgroup level matrix instructions". A *warpgroup* is four warps
whose first is a multiple of four. Both matrices lie in shared memory in rows of 128 bytes whose
16-byte pieces are swizzled: piece p of the row at byte address 128*r lies at p ^ (r & 7).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from .frontend import intrinsic, signature, types
from .instructions import as_tuple, assembly, f32, i32, i64, items, literal, statement

SWIZZLE_128 = 1 << 62

# What generic stores and copies have written becomes visible to `wgmma`, of the calling thread.
publish = statement("fence.proxy.async.shared::cta;", "~{memory}")

begin_products = statement("wgmma.fence.sync.aligned;", "~{memory}")
commit_products = statement("wgmma.commit_group.sync.aligned;", "~{memory}")


@functools.cache
def matrix_descriptor(leading: int, stride: int) -> Callable[..., Any]:
    """(shared address) -> the descriptor of a swizzled matrix.

    `stride` is the bytes from eight rows to the next eight; `leading`, which matters for a
    matrix whose rows run along k, is the bytes from 64 columns to the next 64.
    """
    fixed = SWIZZLE_128 | (stride >> 4) << 32 | (leading >> 4) << 16

    def describe(typing_context: Any, address: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            start = builder.and_(builder.lshr(values[0], i32(4)), i32(0x3FFF))
            return builder.or_(builder.zext(start, i64), i64(fixed))

        return signature(types.int64, types.int32), emit

    return intrinsic(describe)


@functools.cache
def warpgroup_product(kind: str, columns: int) -> Callable[..., Any]:
    """(sums, left descriptor, right descriptor) -> sums + left @ right, begun and not awaited.

    For each 64 rows of the left matrix, whose rows are 128 bytes of k, a thread has columns/2
    sums. The rows of the right matrix are 64 columns each, for one k.
    """

    def multiply(typing_context: Any, sums: Any, left: Any, right: Any) -> Any:
        each, count = columns // 2, sums.count

        def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            totals = items(builder, values[0], count)
            for step in range(4):  # 16 of k: 32 bytes along a row, or 16 rows further
                b = builder.add(values[2], i64(step * 16 * 128 >> 4))
                for first in range(0, count, each):
                    rows = first // each * 64
                    a = builder.add(values[1], i64((rows * 128 + 32 * step) >> 4))
                    part = totals[first : first + each]
                    totals[first : first + each] = emit_wgmma(builder, kind, columns, part, a, b)
            return as_tuple(builder, totals)

        return signature(sums, sums, types.int64, types.int64), emit

    return intrinsic(multiply)


def emit_wgmma(
    builder: ir.IRBuilder, kind: str, columns: int, sums: list[Any], left: Any, right: Any
) -> list[Any]:
    """One instruction: 64 rows, `columns` columns, 16 of k; the right matrix is transposed."""
    count = len(sums)
    registers = ", ".join(f"${i}" for i in range(count))
    text = (
        "{ .reg .pred p; setp.eq.b32 p, 0, 0; "
        f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind} "
        f"{{{registers}}}, ${count}, ${count + 1}, p, 1, 1, 0, 1; }}"
    )
    constraints = ",".join(["=f"] * count + ["l", "l"] + [str(i) for i in range(count)])
    result = ir.LiteralStructType([f32] * count)
    return items(builder, assembly(builder, result, [left, right, *sums], text, constraints), count)


@intrinsic
def wait_for_products(typing_context: Any, pending: Any, sums: Any) -> Any:
    """The sums, once at most `pending` groups of products are under way."""
    count, left = sums.count, literal(pending)

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        parts = items(builder, values[1], count)
        constraints = ",".join(["=f"] * count + [str(i) for i in range(count)]) + ",~{memory}"
        result = ir.LiteralStructType([f32] * count)
        text = f"wgmma.wait_group.sync.aligned {left};"
        return as_tuple(
            builder, items(builder, assembly(builder, result, parts, text, constraints), count)
        )

    return signature(sums, pending, sums), emit


# --- boxes of an array, copied by the tensor memory accelerator; barriers that count their bytes

# A barrier is eight bytes of shared memory, made for one arrival, that of `expect_bytes`.
make_barrier = statement("mbarrier.init.shared::cta.b64 [$0], 1;", "r,~{memory}", types.int32)
publish_barriers = statement("fence.mbarrier_init.release.cluster;", "~{memory}")

# (barrier, bytes of the boxes that this phase waits for)
expect_bytes = statement(
    "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;",
    "r,r,~{memory}", types.int32, types.int32,
)  # fmt: skip

# A tensor map that the host has written to global memory, before its first use by a block.
acquire_map = statement(
    "fence.proxy.tensormap::generic.acquire.gpu [$0], 128;", "l,~{memory}", types.int64
)

# (shared address, address of the map, first channel, first position, batch, barrier)
load_box = statement(
    "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
    "[$0], [$1, {$2, $3, $4}], [$5];",
    "r,l,r,r,r,r,~{memory}",
    types.int32, types.int64, types.int32, types.int32, types.int32, types.int32,
)  # fmt: skip


@intrinsic
def is_complete(typing_context: Any, barrier: Any, parity: Any) -> Any:
    """1 once the phase of this parity, 0 for the first, has all its bytes."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        text = (
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [$1], $2; "
            "selp.b32 $0, 1, 0, p; }"
        )
        return assembly(builder, i32, values, text, "=r,r,r,~{memory}")

    return signature(types.int32, types.int32, types.int32), emit
