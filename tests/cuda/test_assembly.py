"""Machine code of every shipped kernel: registers, spills, shared memory, instructions.

PTX is compiled once for sm_80 (that of `wgmma` for sm_90a) and assembled for each architecture:
later ones run it too. What a machine with a GPU does instead, link-time optimisation for its own
architecture, is checked for a part (`test_linked_code`).
"""

import functools
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from numbaconv.cuda import compiler
from numbaconv.cuda.compiler import Architecture
from numbaconv.cuda.dense import SlabFamily
from numbaconv.cuda.families import FAMILIES
from numbaconv.cuda.slab import SlabTile
from tests.cuda.conftest import ptx_of

ARCHITECTURES = {
    "sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90a": 227, "sm_100": 227, "sm_120": 99,
}  # fmt: skip
TILES = [tile for family in FAMILIES for tile in family.shipped()]
# In the fast suite: one tile of each kind, on the oldest architecture and on Hopper.
FAST_TILES = (
    "ffma f32 128x128, copies of 16", "mma bf16 128x128, warps of 64x64, copies of 16",
    "depthwise bf16, K=4 sliding, 16", "resident bf16, up to 32 channels, copies of 16",
    "scalar f32", "wgmma bf16 128x64, 2 warpgroups, copies of 16",
    "tma bf16 128x64",
)  # fmt: skip
FAST_ARCHITECTURES = ("sm_80", "sm_90a")

EXPECTED = {
    "ffma": ("FFMA", "LDS.128", "LDGSTS"),
    "mma tf32": ("HMMA.1688.F32.TF32", "LDSM", "LDGSTS"),
    "mma 3xtf32": ("HMMA.1688.F32.TF32", "LDSM", "LDGSTS"),
    "mma f16": ("HMMA.16816.F32 ", "LDSM.16.MT88.4", "LDGSTS"),
    "mma bf16": ("HMMA.16816.F32.BF16", "LDSM.16.MT88.4", "LDGSTS"),
    "wgmma f16": (r"HGMMA\.64x\d+x16\.F32 ", "LDGSTS", "WARPGROUP"),
    "wgmma bf16": (r"HGMMA\.64x\d+x16\.F32\.BF16", "LDGSTS", "WARPGROUP"),
    "tma f16": (r"HGMMA\.64x\d+x16\.F32 ", "UTMALDG.3D", "SYNCS"),
    "tma bf16": (r"HGMMA\.64x\d+x16\.F32\.BF16", "UTMALDG.3D", "SYNCS"),
    "resident tf32": ("HMMA.1688.F32.TF32", "LDSM", "LDGSTS"),
    "resident f16": ("HMMA.16816.F32 ", "LDSM.16.MT88", "LDGSTS"),
    "resident bf16": ("HMMA.16816.F32.BF16", "LDSM.16.MT88", "LDGSTS"),
    "depthwise f32": ("FFMA", "LDG", "STG"),
    "depthwise f16": ("HADD2.F32|HFMA2|F2F|F2FP", "FFMA|FFMA2", "LDG"),
    "depthwise bf16": ("F2FP.BF16", "FFMA", "LDG"),
    "scalar f64": ("DFMA|DADD", "LDG", "STG"),
    "scalar": ("FFMA|FADD", "LDG", "STG"),
}


def tool(name):
    """A program of NVIDIA's wheels, or of the system."""
    import shutil

    for place in find_spec("nvidia").submodule_search_locations if find_spec("nvidia") else ():
        for found in Path(place).glob(f"*/bin/{name}*"):
            return str(found)
    return shutil.which(name) or pytest.skip(f"{name} is not installed (dependency group cuda)")


@functools.cache
def assembled(tile, architecture, folder):
    """(log of ptxas, path of the cubin)."""
    path = Path(folder) / f"{abs(hash((tile, architecture)))}.cubin"
    done = subprocess.run(
        [tool("ptxas"), "-v", f"-arch={architecture}", "-", "-o", path],
        input=ptx_of(tile)[1], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr, path


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cubins"))


def number(pattern, text):
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def expected_of(tile):
    return next(what for name, what in EXPECTED.items() if tile.name.startswith(name))


def product():
    for tile in TILES:
        for architecture in ("sm_90a",) if tile.HOPPER_ONLY else ARCHITECTURES:
            fast = tile.name.startswith(FAST_TILES) and architecture in FAST_ARCHITECTURES
            marks = [] if fast else [pytest.mark.slow]
            yield pytest.param(tile, architecture, marks=marks, id=f"{tile.name} {architecture}")


@pytest.mark.parametrize(("tile", "architecture"), list(product()))
def test_machine_code(tile, architecture, folder):
    log, cubin = assembled(tile, architecture, folder)
    assert number(r"(\d+) bytes stack frame", log) == 0
    assert number(r"(\d+) bytes spill stores", log) == number(r"(\d+) bytes spill loads", log) == 0
    assert "serialized" not in log  # of products that should overlap
    registers = number(r"Used (\d+) registers", log)
    assert registers * tile.threads <= 65536  # of a multiprocessor
    assert number(r"(\d+) bytes smem", log) <= 1024  # all the rest is dynamic
    if "4 bytes" in tile.name and architecture != "sm_90a":
        return  # instructions are those of the tile with wider copies
    done = subprocess.run(
        [tool("nvdisasm"), "-c", "--no-dataflow", cubin], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\b(LDL|STL)\b", done.stdout)
    for instruction in expected_of(tile):
        assert re.search(instruction, done.stdout), instruction


SLABS = [tile for tile in TILES if isinstance(tile, SlabTile)]


@pytest.mark.parametrize("tile", SLABS, ids=lambda tile: tile.name)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shared_memory_of_common_layers(tile, architecture):
    """The small tile takes K = 11 with dilation 5, and stride 2, on every architecture."""
    limit = ARCHITECTURES[architecture] << 10
    assert tile.ring_bytes < limit
    if tile.rows == 64:
        assert tile.shared(stride=1, span=51, taps=11) <= limit
        assert tile.shared(stride=2, span=3, taps=3) <= limit


def test_every_family_of_tiles_is_here():
    names = {tile.name.split(" ")[0] for tile in TILES}
    assert names == {family.name for family in FAMILIES}
    assert len(TILES) == len({tile.name for tile in TILES})
    assert any(isinstance(family, SlabFamily) for family in FAMILIES)


@pytest.mark.parametrize(
    "tile",
    [
        pytest.param(t, id=t.name, marks=[] if t.name == "scalar f32" else pytest.mark.slow)
        for t in TILES
        if t.name.startswith(FAST_TILES)
    ],
)
def test_linked_code(tile, tmp_path):
    """What `compiler.image` makes on a Hopper GPU, with link-time optimisation."""
    library, entry = compiler._library(tile, Architecture(9, 0, "a"), link=True)
    path = tmp_path / "kernel.cubin"
    path.write_bytes(library.get_cubin(cc=(9, 0, "a")).code)
    done = subprocess.run([tool("cuobjdump"), "-res-usage", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert entry in done.stdout
    assert number(r"STACK:(\d+)", done.stdout) == number(r"LOCAL:(\d+)", done.stdout) == 0
    assert 0 < number(r"REG:(\d+)", done.stdout) * tile.threads <= 65536
