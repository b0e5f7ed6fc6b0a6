"""The assembly of every shipped tile, for every instruction set, read without running it."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from llvmlite.binding import llvm_version_info

from numbaconv.cpu.dense import cut_channels
from numbaconv.cpu.dense_tile import (
    MOST_STORED,
    STORE_BY_ROWS,
    has_own_loop_of_one_tap,
    unroll_of,
)
from numbaconv.cpu.families import FAMILIES, standalone_module
from numbaconv.cpu.fir import MOST_PERMUTED, SHORTER
from numbaconv.cpu.microkernel import Tile
from numbaconv.cpu.sliced import MOST_WRITTEN_TAPS
from numbaconv.cpu.target import ISAS, Target
from numbaconv.problem import ConvProblem, Geometry
from tests.codegen.reader import (
    BRANCH,
    PROCESSORS,
    REGISTERS,
    SCALAR_ARITHMETIC,
    calls,
    compiled,
    innermost_loops,
    products,
    stack_accesses,
    touches_vectors,
)

# Tiles are as large as LLVM 22, that of Numba 0.68, keeps in registers. LLVM 20, that of 0.62, has
# values of 28 of them on the stack (planar ones of 2, 4 and 5 outputs, dense ones of NEON, short
# ones of AVX2), by which none of ten layers was slower; LLVM 15, that of 0.61, also makes loops of
# stores.
sized_for_llvm_22 = pytest.mark.skipif(
    llvm_version_info < (22,), reason="tiles are sized for LLVM 22 and later"
)


# --- every tile that blocking can ask for


# (C_in/G, C_out/G): depthwise, channel multipliers, and groups that share a vector.
SMALL_GROUPS = ((1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (2, 4), (4, 4), (8, 8))


def strided_shapes(lanes: int) -> Iterator[tuple[int, ...]]:
    """(C_in, C_out, groups, dilation, K, stride) whose outputs lie apart."""
    for stride in (2, 3):
        for taps in (stride + 1, 2 * lanes, 2 * lanes * stride + 1):
            yield 1, 1, 1, 1, taps, stride
            yield 3, 3, 3, 1, taps, stride
        yield 1, 1, 1, 5, 2 * lanes * stride + 1, stride
    for outputs in (1, 2, lanes // 2):
        for inputs in (1, 2, 3 * lanes):
            yield inputs, outputs, 1, 5, 5, 3
    for outputs in range(lanes, 6 * lanes + 1, lanes // 2):  # pointwise
        for inputs in (64, 160, 8000):
            yield inputs, outputs, 1, 1, 1, 2


def shapes(lanes: int) -> Iterator[tuple[int, ...]]:
    """(C_in, C_out, groups, dilation), and K if not 3, that need every kind of tile."""
    for channels in range(1, 71):
        for inputs, dilation in ((3, 1), (12, 1), (8000, 1), (1, 2)):  # short, plain, long, one
            yield inputs, channels, 1, dilation
    for channels in range(lanes, 6 * lanes + 1, lanes // 2):  # one tap
        for inputs in (64, 8000):
            yield inputs, channels, 1, 1, 1
    yield 512, 512, 512, 1, 5  # rows collide, and are copied
    for taps in (4, MOST_WRITTEN_TAPS, MOST_WRITTEN_TAPS + 1):
        for depth, outputs in ((1, 1), (8, 8)):  # depthwise, sliding
            yield 64 * depth, 64 * outputs, 64, 1, taps
        yield lanes, lanes, 1, 1, taps
    for taps in range(2, lanes + 1):
        yield 64, 64, 64, 1, taps
    for dilation in (1, 2, 4, 8):
        for channels in range(2, lanes // 2 + 1):  # interleaved, and signals in their order
            yield channels, channels, channels, dilation
            yield channels, channels, channels, dilation, 2 * lanes + 1
    for dilation in (1, 2):
        yield 1, 1, 1, dilation
        yield 1, 1, 1, dilation, 2 * lanes + 1
        for inputs in (3 * lanes, 3 * lanes - 1):
            for outputs in range(1, lanes // 2 + 1):
                yield inputs, outputs, 1, dilation
            for outputs in range(1, lanes // 2 + 1):  # dot products by vectors of positions
                yield inputs, outputs, 1, dilation, 1
        for depth, outputs in SMALL_GROUPS:
            for groups in (64, 65):
                yield groups * depth, groups * outputs, groups, dilation
            yield 64 * depth, 64 * outputs, 64, dilation, MOST_WRITTEN_TAPS + 1


@functools.cache
def shipped_tiles(isa: str) -> tuple[Tile, ...]:
    tiles: dict[Tile, None] = {}
    collect_tiles(ISAS[isa], tiles)
    if isa == "avx512":  # with one multiply-add unit, and two
        collect_tiles(dataclasses.replace(ISAS[isa], core="znver4"), tiles)
    return tuple(tiles)


def problems(lanes: int, dtype: np.dtype[Any]) -> Iterator[ConvProblem]:
    """Of short and of long signals, in both orders of axes."""
    near, far = 300, 20_000
    for inputs, outputs, groups, dilation, *taps in shapes(lanes):
        for layout, stride, length in (
            ("NLC", 1, near), ("NLC", 1, far),
            ("NCL", 1, near), ("NCL", 1, far), ("NCL", 2, near),
        ):  # fmt: skip
            geometry = Geometry(
                *(taps or [3]), inputs, outputs,
                stride=stride, dilation=dilation, num_groups=groups,
            )  # fmt: skip
            yield ConvProblem(geometry, 1, length, dtype, layout=layout)
    for inputs, outputs, groups, dilation, kernel_size, stride in strided_shapes(lanes):
        geometry = Geometry(
            kernel_size, inputs, outputs, stride=stride, dilation=dilation, num_groups=groups
        )
        for layout in ("NLC", "NCL"):
            yield ConvProblem(geometry, 1, 4000, dtype, layout=layout).thinned


def collect_tiles(target: Target, tiles: dict[Tile, None]) -> None:
    """Add each tile for `target`, in an order that does not change."""
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        for problem in problems(target.lanes(dtype), dtype):
            for family in FAMILIES:
                if family.declines(problem, target) is None:
                    for panel in family.panels(problem, target):
                        tiles[panel.tile] = None
        for columns in range(1, 71):  # of a transform, whose spectrum does not stay near
            for depth in (24, 8000):
                gemm = ConvProblem(Geometry(1, depth, columns), 1, 1, dtype)
                for panel in cut_channels(
                    gemm, target, first=0, channels=columns, x_offset=0, column=0, sharing=8
                ):
                    tiles[panel.tile] = None


@functools.cache
def representative_tiles(isa: str) -> set[Tile]:
    """The widest whole tile of each family in float32, on the two common processors."""
    whole = [t for t in shipped_tiles(isa) if t.bits == 32 and not t.masked]
    widest = {t.family: t for t in sorted(whole, key=lambda t: (t.width, t.name))}
    return set(widest.values()) if isa in ("avx512", "avx2") else set()


def parameters(*families: str) -> list[Any]:
    return [
        pytest.param(
            isa, tile, id=f"{isa}-{tile.name}",
            marks=[] if tile in representative_tiles(isa) else pytest.mark.slow,
        )
        for isa in ISAS
        for tile in shipped_tiles(isa)
        if tile.family in families
    ]  # fmt: skip


DENSE = parameters("dense")
SHORT = parameters("short")
OTHERS = parameters("depthwise", "groups", "sliding", "interleaved", "narrow", "fir", "planar")
TILES = DENSE + SHORT + OTHERS


# --- reading


@functools.cache
def assembly(isa: str, tile: Tile) -> str:
    return compiled(isa, standalone_module(tile, PROCESSORS[isa][0]))


def products_of(isa: str, tile: Tile, loop: list[str]) -> tuple[int, int, int]:
    """What a loop multiplies and adds, in vectors of the tile: of AVX-512 perhaps half ones."""
    is_half = isa == "avx512" and tile.lanes * tile.bits == 256
    return products("avx2" if is_half else isa, tile.bits, loop)


@functools.cache
def reduction_loops(isa: str, tile: Tile) -> list[list[str]]:
    """The innermost loops in which chains grow."""
    loops = innermost_loops(assembly(isa, tile))
    return [loop for loop in loops if max(products_of(isa, tile, loop)) > 0]


def products_of_a_tap(tile: Tile) -> int:
    """Multiply-adds of whole vectors that one tap of the full tile takes."""
    if tile.family == "fir":
        return tile.rows // tile.lanes
    if tile.family == "planar":
        return tile.rows // tile.lanes * tile.variant.outputs
    positions = tile.variant.positions if tile.family == "interleaved" else 1
    return tile.rows // positions * tile.vectors


def full_tile_loops(isa: str, tile: Tile) -> list[list[str]]:
    """The loops of the full tile over its largest block of taps.

    No others have as many products, but for tiles of fewer rows that LLVM unrolled.
    """
    step, found = products_of_a_tap(tile), {}
    for loop in reduction_loops(isa, tile):
        count = max(products_of(isa, tile, loop))
        if count % step == 0:
            found.setdefault(count, []).append(loop)
    return found[max(found)] if found else []


# --- what the tiles promise


@pytest.mark.parametrize("isa, tile", DENSE)
def test_inner_loop_of_the_full_dense_tile_is_unrolled_multiply_adds(isa, tile):
    loops = full_tile_loops(isa, tile)
    unroll = unroll_of(tile.lanes * tile.bits, tile.vectors, tile.variant)
    wanted = unroll * tile.rows * tile.vectors
    copies = 1 + has_own_loop_of_one_tap(tile)
    assert len(loops) == copies or unroll == 1  # one step: a small tile may have as many
    for loop in loops:
        found = products_of(isa, tile, loop)
        steps = 2 if unroll == 1 and max(found) == 2 * wanted else 1  # LLVM's choice
        count = steps * wanted
        assert found == ((count, 0, 0) if tile.fma else (0, count, count))


BY_ROWS = [parameter for parameter in DENSE if STORE_BY_ROWS in parameter.values[1].variant]


@pytest.mark.parametrize("isa, tile", BY_ROWS)
def test_a_tile_stored_by_rows_multiplies_between_the_stores(isa, tile):
    """A turn of the first rows, their stores, and a turn of the next rows."""
    steps = unroll_of(tile.lanes * tile.bits, tile.vectors, tile.variant)
    first = MOST_STORED // tile.vectors
    second = min(first, tile.rows - first)
    kinds = {r"vfmadd\d+p": "m", r"vmovup[sd]\s+%zmm\d+, .*\(": "s"}
    kept = (
        kind
        for line in assembly(isa, tile).splitlines()
        for pattern, kind in kinds.items()
        if re.match(r"\s*" + pattern, line)
    )
    turns = [steps * rows * tile.vectors for rows in (first, second)]
    wanted = f"m{{{turns[0]}}}s{{{first * tile.vectors}}}m{{{turns[1]}}}"
    assert re.search(wanted, "".join(kept))


@pytest.mark.parametrize("isa, tile", SHORT)
def test_the_full_short_tile_is_all_its_products_without_a_loop(isa, tile):
    taps, depth = tile.variant
    (loop,) = full_tile_loops(isa, tile)  # from slice to slice
    count = taps * depth * tile.rows * tile.vectors
    assert products_of(isa, tile, loop) == ((count, 0, 0) if tile.fma else (0, count, count))


@pytest.mark.parametrize("isa, tile", OTHERS)
def test_a_loop_of_the_full_tile_takes_whole_taps(isa, tile):
    """A block of taps, which LLVM may unroll: one multiply-add for each vector of y and tap."""
    loops = full_tile_loops(isa, tile)
    assert loops
    for loop in loops:
        fused, multiplications, additions = products_of(isa, tile, loop)
        if tile.fma:
            assert multiplications == additions == 0
        else:
            assert fused == 0
            assert multiplications == additions


@pytest.mark.parametrize("isa, tile", TILES)
def test_no_multiply_add_of_the_reduction_is_scalar(isa, tile):
    found = [
        line
        for loop in reduction_loops(isa, tile)
        for line in loop
        if re.match(SCALAR_ARITHMETIC, line)
    ]
    assert found == []


@pytest.mark.parametrize("isa, tile", TILES)
def test_kernel_calls_nothing(isa, tile):
    assert calls(assembly(isa, tile)) == []


def has_loop_over_taps(tile: Tile) -> bool:
    """Not if they are written out: in a slice of the sliced families, in short tiles all."""
    if tile.family == "fir":
        return not tile.variant.written_taps
    is_sliced = tile.family in ("depthwise", "groups", "sliding")
    return tile.family != "short" and not (is_sliced and tile.variant.written_taps)


@sized_for_llvm_22
@pytest.mark.parametrize("isa, tile", [p for p in TILES if has_loop_over_taps(p.values[1])])
def test_the_loop_of_the_full_tile_never_touches_the_stack(isa, tile):
    """Neither sums nor addresses: a spill of a sum is in its chain, at 5 cycles a time.

    Tiles without such a loop load addresses of rows once, and are held to the next test.
    """
    text, loops = assembly(isa, tile), full_tile_loops(isa, tile)
    found = [line for loop in loops for line in stack_accesses(isa, text, loop)]
    assert found == []


@sized_for_llvm_22
@pytest.mark.parametrize("isa, tile", TILES)
def test_no_loop_spills_a_vector(isa, tile):
    """Tiles of fewer rows and what is left over by blocks of taps or channels included."""
    spills = [
        line
        for loop in reduction_loops(isa, tile)
        for line in stack_accesses(isa, assembly(isa, tile), loop)
        if touches_vectors(line)
    ]
    assert spills == []


@pytest.mark.parametrize("isa, tile", TILES)
def test_the_loop_of_the_full_tile_has_one_branch(isa, tile):
    """Known: without masked loads a partial last vector of x costs a branch for each lane."""
    if tile.masked and tile.family != "dense" and isa in ("sse", "neon"):
        pytest.skip(f"{isa} has no masked loads")
    for loop in full_tile_loops(isa, tile):
        branches = [line for line in loop if BRANCH.match(line.split()[0])]
        # Depthwise asks twice whether x is far, and leaves to prefetch and comes back; not in the
        # loop over the taps if there is one.
        asks = isa == "avx512" and tile.family == "depthwise" and not has_loop_over_taps(tile)
        assert len(branches) == (4 if asks else 1)


PERMUTATION = re.compile(r"\s*(vperm[it]2p|valign)")


@pytest.mark.parametrize(
    "tile", [t for t in shipped_tiles("avx512") if t.family == "fir" and t.variant.reading],
    ids=lambda tile: tile.name,
)  # fmt: skip
def test_every_other_tap_of_a_signal_is_read_by_permutations(tile):
    """LLVM might see that vectors which are held were loaded from memory where all lie in a row."""
    taps, phases, vectors = tile.variant.written_taps, tile.variant.phases, tile.rows // tile.lanes
    most = -(-taps // phases)
    permuted = min(most // 2, MOST_PERMUTED)
    if phases > 1:  # a loop for those with most taps and one for the others, LLVM may write out
        lines, vectors = assembly("avx512", tile).splitlines(), vectors + SHORTER[-1]
        permuted += min((most - 1) // 2, MOST_PERMUTED) if taps % phases else 0
        assert len([line for line in lines if PERMUTATION.match(line)]) >= vectors * permuted
        return
    (loop,) = full_tile_loops("avx512", tile)
    found = [line for line in loop if PERMUTATION.match(line)]
    assert len(found) == vectors * permuted


STREAMING_STORES = {
    "avx512": r"vmovntp[sd]\s+%zmm", "avx2": r"vmovntp[sd]\s+%ymm", "avx": r"vmovntp[sd]\s+%ymm",
    "sse": r"movntp[sd]\s+%xmm", "neon": r"stnp\s",
}  # fmt: skip


@sized_for_llvm_22
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("family", ["dense", "depthwise"])
def test_a_streaming_tile_stores_past_the_caches_and_waits(isa, family):
    tile = next(
        t for t in shipped_tiles(isa) if t.family == family and t.bits == 32 and not t.masked
    )
    text = assembly(isa, dataclasses.replace(tile, streams=True))
    stores = re.findall(rf"^\s*{STREAMING_STORES[isa]}", text, re.MULTILINE)
    whole = REGISTERS[isa].strip("%")
    regular = [
        line for line in text.splitlines()
        if isa != "neon" and re.match(rf"\s*v?movu?a?p[sd]\s+%{whole}\d+, [^%]*\((?!%rsp)", line)
    ]  # fmt: skip
    assert len(stores) >= (tile.rows * tile.vectors // (2 if isa == "neon" else 1))
    assert regular == []
    assert re.search(r"\bdmb\b" if isa == "neon" else r"\bmfence\b|lock\w*\s", text)


@pytest.mark.parametrize("isa", ISAS)
def test_every_family_ships_tiles(isa):
    assert {tile.family for tile in shipped_tiles(isa)} == {
        "dense",
        "short",
        "depthwise",
        "groups",
        "sliding",
        "interleaved",
        "narrow",
        "fir",
        "planar",
    }
