"""The processor that Numba generates code for: vector width, registers, caches."""

from __future__ import annotations

import dataclasses
import functools
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Where the system does not say: per-core L1 and L2 and the last cache of a small laptop.
DEFAULT_CACHES = (32 << 10, 512 << 10, 8 << 20)

# Bytes after which lines fall on the same sets of a first cache: a page, whose offset is all that
# is known when the set is looked up.
CACHE_WAY = 4 << 10


@dataclass(frozen=True)
class Target:
    """What blocking and code generation need to know of a processor.

    Attributes
    ----------
    isa : str
        "avx512", "avx2", "avx", "sse" or "neon".
    vector_bytes, registers : int
        Width and number of the vector registers.
    fma : bool
        Whether a fused multiply-add is one instruction. Where it is not, LLVM turns
        `llvm.fma` into four library calls a vector, so kernels multiply and add.
    tile_rows : tuple of int
        MR of dense tiles of 1, 2, … vectors: the most rows whose loops keep every sum,
        column and address in a register. Read off the assembly (tests/codegen), since
        LLVM's scheduling takes one to four registers more than the tile.
    short_rows : tuple of int
        The same of tiles whose few products are all written out (`short`); empty for `tile_rows`.
    prefetch_bits : tuple of int
        Element widths whose dense tiles have a register left to prefetch with.
    l1, l2, last_cache : int
        Bytes of data cache: a core's first and second level, and the last one.
    core : str
        Of the cores that have been measured the one that this one is most like, by LLVM's name.
    """

    isa: str
    vector_bytes: int
    registers: int
    fma: bool
    tile_rows: tuple[int, ...] = (4,)
    short_rows: tuple[int, ...] = ()
    prefetch_bits: tuple[int, ...] = ()
    l1: int = DEFAULT_CACHES[0]
    l2: int = DEFAULT_CACHES[1]
    last_cache: int = DEFAULT_CACHES[2]
    core: str = "znver3"

    @property
    def fma_units(self) -> int:
        """Multiply-adds of whole vectors that start in a cycle."""
        return 1 if self.core == "znver4" else 2

    @property
    def has_half_vectors(self) -> bool:
        """Whether two multiply-adds of half a vector start where one of a whole one does."""
        return self.isa == "avx512" and self.fma_units == 1

    @property
    def has_masks(self) -> bool:
        """Whether masks have registers of their own, so that partial vectors cost no more."""
        return self.isa == "avx512"

    def lanes(self, dtype: np.dtype) -> int:
        """Elements of one vector register."""
        return self.vector_bytes // dtype.itemsize


ISAS = {
    target.isa: target
    for target in (
        Target(
            "avx512",
            vector_bytes=64,
            registers=32,
            fma=True,
            tile_rows=(10, 10, 8, 6),
            # Few stores in a row, as with AVX2. Over 10, 10, 7 and 6 rows (Zen 4) 1 → 32 K7 gains
            # 1.13×, 1 → 512 K10 s5 1.08×, 1 → 100 K9 1.07-1.1×, 1 → 64 K3 1.27×, 32 → 64 K1 1.03×.
            short_rows=(8, 4, 3, 4),
            prefetch_bits=(32, 64),
        ),
        Target(
            "avx2",
            vector_bytes=32,
            registers=16,
            fma=True,
            tile_rows=(9, 6),
            # Twelve stores in a row hold up the multiply-adds of the next tile, eight do not. On a
            # quiet core (Zen 3) 4 rows gain 1.1-1.2× over 6 at 7 to 31 products.
            short_rows=(8, 4),
            prefetch_bits=(32,),
        ),
        Target(
            "avx",
            vector_bytes=32,
            registers=16,
            fma=False,
            tile_rows=(9, 4),
            short_rows=(6, 4),
        ),
        Target("sse", vector_bytes=16, registers=16, fma=False, tile_rows=(6, 4)),
        Target("neon", vector_bytes=16, registers=32, fma=True, tile_rows=(9, 9, 7, 5)),
    )
}


# Cores with AVX-512 that start one multiply-add of 512 bits in a cycle, by LLVM's names.
LIKE_ZNVER4 = ("znver4", "cannonlake", "icelake-client", "rocketlake", "tigerlake")


def isa_of(features: str, machine: str) -> str:
    """Name the instruction set that LLVM feature flags ("+avx,-avx2,...") allow."""
    if machine.lower() in ("aarch64", "arm64"):
        return "neon"
    enabled = {flag[1:] for flag in features.split(",") if flag.startswith("+")}
    if {"avx512f", "avx512vl", "fma"} <= enabled:
        return "avx512"
    if {"avx2", "fma"} <= enabled:
        return "avx2"
    return "avx" if "avx" in enabled else "sse"


def cache_sizes(
    root: Path = Path("/sys/devices/system/cpu/cpu0/cache"),
) -> tuple[int, int, int]:
    """Return (l1, l2, last) data cache bytes from sysfs, or defaults elsewhere."""
    found: dict[int, int] = {}
    try:
        for index in sorted(root.glob("index*")):
            if (index / "type").read_text().strip() == "Instruction":
                continue
            size = re.fullmatch(r"(\d+)([KM])", (index / "size").read_text().strip())
            if size:
                level = int((index / "level").read_text())
                found[level] = int(size[1]) << (10 if size[2] == "K" else 20)
    except (OSError, ValueError):
        return DEFAULT_CACHES
    l1, l2, _ = DEFAULT_CACHES
    l1, l2 = found.get(1, l1), found.get(2, l2)
    return l1, l2, max([*found.values(), l2])


@functools.cache
def host() -> Target:
    """Return the processor that Numba's CPU code generator is set to."""
    from llvmlite.binding import get_host_cpu_name
    from numba.core import config
    from numba.core.codegen import get_host_cpu_features

    features = config.CPU_FEATURES
    if features is None:
        features = get_host_cpu_features()
    isa = isa_of(features, platform.machine())
    name = config.CPU_NAME or get_host_cpu_name()
    core = "znver4" if name in LIKE_ZNVER4 else "sapphirerapids"
    core = core if isa == "avx512" else "znver3"
    l1, l2, last_cache = cache_sizes()
    return dataclasses.replace(ISAS[isa], l1=l1, l2=l2, last_cache=last_cache, core=core)
