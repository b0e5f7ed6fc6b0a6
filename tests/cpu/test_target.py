"""What is known of processors, and how the host is recognised."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from numbaconv.cpu import target as target_module
from numbaconv.cpu.target import DEFAULT_CACHES, ISAS, Target, cache_sizes, host, isa_of

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


@pytest.mark.parametrize(
    "isa, f32, f64",
    [("avx512", 16, 8), ("avx2", 8, 4), ("avx", 8, 4), ("sse", 4, 2), ("neon", 4, 2)],
)
def test_lanes_of_each_instruction_set(isa, f32, f64):
    assert ISAS[isa].isa == isa
    assert (ISAS[isa].lanes(F32), ISAS[isa].lanes(F64)) == (f32, f64)


@pytest.mark.parametrize("isa", ISAS)
def test_registers_follow_the_architecture(isa):
    assert ISAS[isa].registers == (32 if isa in ("avx512", "neon") else 16)
    assert ISAS[isa].fma == (isa not in ("avx", "sse"))


@pytest.mark.parametrize(
    "features, machine, isa",
    [
        ("+sse4.2,+avx,+avx2,+fma,+avx512f,+avx512vl", "x86_64", "avx512"),
        ("+avx,+avx2,+fma,+avx512f,-avx512vl", "x86_64", "avx2"),
        ("+avx,+avx2,-fma,+avx512f,+avx512vl", "x86_64", "avx"),
        ("+avx,+avx2,+fma", "AMD64", "avx2"),
        ("+avx,+avx2", "x86_64", "avx"),
        ("+avx,-avx2,+fma", "x86_64", "avx"),
        ("+sse4.2,-avx", "x86_64", "sse"),
        ("-avx,-avx2,-fma", "x86_64", "sse"),
        ("", "x86_64", "sse"),
        ("", "aarch64", "neon"),
        ("+neon,+fp-armv8", "arm64", "neon"),
        ("+avx2", "ARM64", "neon"),
    ],
)
def test_features_name_an_instruction_set(features, machine, isa):
    assert isa_of(features, machine) == isa


def test_a_feature_is_not_taken_for_another_that_begins_alike():
    assert isa_of("+avx512f,+avx512vlx,+fma4,+avx20", "x86_64") == "sse"


# --- caches


def make_caches(root, *levels):
    for number, (level, kind, size) in enumerate(levels):
        index = root / f"index{number}"
        index.mkdir(parents=True)
        (index / "level").write_text(f"{level}\n")
        (index / "type").write_text(f"{kind}\n")
        (index / "size").write_text(f"{size}\n")
    return root


def test_caches_are_read_from_the_system(tmp_path):
    root = make_caches(
        tmp_path,
        (1, "Data", "48K"),
        (1, "Instruction", "64K"),
        (2, "Unified", "2048K"),
        (3, "Unified", "260M"),
    )
    assert cache_sizes(root) == (48 << 10, 2 << 20, 260 << 20)


def test_without_a_third_level_the_second_is_the_last(tmp_path):
    root = make_caches(tmp_path, (1, "Data", "32K"), (2, "Unified", "1M"))
    assert cache_sizes(root) == (32 << 10, 1 << 20, 1 << 20)


def test_a_level_that_is_missing_has_its_default(tmp_path):
    root = make_caches(tmp_path, (1, "Data", "16K"))
    assert cache_sizes(root) == (16 << 10, DEFAULT_CACHES[1], DEFAULT_CACHES[1])


@pytest.mark.parametrize("size", ["", "lots", "-1K", "3.5M"])
def test_a_size_that_makes_no_sense_is_passed_over(tmp_path, size):
    root = make_caches(tmp_path, (1, "Data", size), (2, "Unified", "1M"))
    assert cache_sizes(root) == (DEFAULT_CACHES[0], 1 << 20, 1 << 20)


def test_files_that_cannot_be_read_give_defaults(tmp_path):
    (tmp_path / "index0").mkdir()
    assert cache_sizes(tmp_path) == DEFAULT_CACHES


def test_no_sysfs_at_all_leaves_sensible_sizes(tmp_path):
    l1, l2, last = cache_sizes(tmp_path / "missing")
    assert (l1, l2) == DEFAULT_CACHES[:2]
    assert last >= l2


# --- the host


def test_host_is_one_of_the_known_instruction_sets():
    found = host()
    known = ISAS[found.isa]
    for name in ("vector_bytes", "registers", "fma"):
        assert getattr(found, name) == getattr(known, name)
    assert 0 < found.l1 <= found.l2 <= found.last_cache


def test_numbas_own_setting_decides(monkeypatch):
    from numba.core import config

    monkeypatch.setattr(config, "CPU_FEATURES", "+sse4.2,-avx")
    monkeypatch.setattr(target_module.platform, "machine", lambda: "x86_64")
    assert host.__wrapped__().isa == "sse"


AVX512 = "+sse4.2,+avx,+avx2,+fma,+avx512f,+avx512vl"


@pytest.mark.parametrize(
    "name, features, core, units",
    [
        ("znver4", AVX512, "znver4", 1),
        ("tigerlake", AVX512, "znver4", 1),
        ("znver5", AVX512, "sapphirerapids", 2),
        ("sapphirerapids", AVX512, "sapphirerapids", 2),
        ("znver4", "+sse4.2,+avx,+avx2,+fma", "znver3", 2),
    ],
)
def test_a_core_is_taken_for_the_measured_one_that_is_most_like_it(
    monkeypatch, name, features, core, units
):
    from numba.core import config

    monkeypatch.setattr(config, "CPU_NAME", name)
    monkeypatch.setattr(config, "CPU_FEATURES", features)
    monkeypatch.setattr(target_module.platform, "machine", lambda: "x86_64")
    found = host.__wrapped__()
    assert (found.core, found.fma_units) == (core, units)


def test_targets_are_values():
    same = Target(
        "avx2",
        vector_bytes=32,
        registers=16,
        fma=True,
        tile_rows=(9, 6),
        short_rows=(8, 4),
        prefetch_bits=(32,),
    )
    assert same == ISAS["avx2"]
    assert hash(same) == hash(ISAS["avx2"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        same.l1 = 0
