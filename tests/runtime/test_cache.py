"""Compiled kernels between processes: whatever happens to the files, results are right."""

import os
import random
import shutil
import signal
import time

import pytest

from numbaconv import _cache
from tests.runtime import child
from tests.runtime.child import edited_copy

RUN = "from tests.runtime import work; work.check(work.small())"
TIMED = f"""
import time
{RUN}
print(time.process_time())
"""
WHERE = "from numbaconv import _cache; print(_cache.folder())"
DAY = 86400
EXPECT = "from tests.runtime import work; work.check(work.small(), factor={})"
# Files are treated alike however good the code in them is, and this takes two thirds of the time.
QUICK = {"NUMBA_OPT": "0"}


def slow_but_first(names):
    """Parameters of which only the first is in the quick part of the suite."""
    first, *others = names
    return [first, *(pytest.param(name, marks=pytest.mark.slow) for name in others)]


def entries(cache):
    """The files of every digest in a cache."""
    return sorted(path for path in cache.rglob("*") if path.is_file())


def stamps(cache):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in entries(cache)}


def folder_of(cache):
    (folder,) = cache.iterdir()
    return folder


@pytest.fixture(scope="module")
def filled(package, tmp_path_factory):
    """A cache that one process has filled; for reading."""
    folder = tmp_path_factory.mktemp("filled")
    child.succeed(child.run("-c", RUN, package=package, NUMBACONV_CACHE_DIR=folder, **QUICK))
    return folder


@pytest.fixture
def python(package, filled):
    """Run code that must succeed, by default on the copy and with the filled cache."""

    def run(code, timeout=120, **options):
        options = {"package": package, "NUMBACONV_CACHE_DIR": filled, **QUICK, **options}
        return child.succeed(child.run("-c", code, timeout=timeout, **options))

    return run


@pytest.fixture
def cache(filled, tmp_path):
    """A filled cache that a test may damage."""
    return shutil.copytree(filled, tmp_path / "cache")


@pytest.fixture
def repaired(python):
    """Check that a damaged cache gives right results, and that the next process needs no repair."""

    def check(cache):
        python(RUN, NUMBACONV_CACHE_DIR=cache)
        before = stamps(cache)
        assert "is damaged" not in python(LOGGED, NUMBACONV_CACHE_DIR=cache)
        assert stamps(cache) == before

    return check


LOGGED = f"import logging, sys; logging.basicConfig(stream=sys.stdout)\n{RUN}"


# --- filling and loading
def test_second_process_loads_what_the_first_compiled(python, tmp_path):
    first = float(python(TIMED, NUMBACONV_CACHE_DIR=tmp_path))
    before = stamps(tmp_path)
    assert before and all(path.suffix == ".bin" for path in before)
    second = float(python(TIMED, NUMBACONV_CACHE_DIR=tmp_path))
    assert stamps(tmp_path) == before
    assert second < first


@pytest.mark.slow
def test_processes_agree_on_the_bits(python, tmp_path):
    code = "from tests.runtime import work; work.print_result()"
    outputs = [python(code, NUMBACONV_CACHE_DIR=tmp_path) for _ in range(2)]
    outputs.append(python(code, NUMBACONV_CACHE="0"))
    assert len(set(outputs)) == 1
    assert "False" not in outputs[0]


@pytest.mark.slow
def test_another_dtype_adds_files_and_touches_none(python, cache):
    before = stamps(cache)
    code = "import numpy as np; from tests.runtime import work; "
    python(code + "work.check(work.Work(3, 16, 16, np.float64))", NUMBACONV_CACHE_DIR=cache)
    after = stamps(cache)
    assert before.items() < after.items()


def test_switched_off_nothing_is_written(python, tmp_path):
    cache = tmp_path / "cache"
    home = tmp_path / "home"
    home.mkdir()
    python(RUN, NUMBACONV_CACHE="0", NUMBACONV_CACHE_DIR=cache, HOME=home)
    assert not cache.exists()
    assert not entries(home)


@pytest.mark.slow
def test_switched_off_nothing_is_read(python, cache):
    for path in entries(cache):
        path.write_bytes(b"poison")
    assert "poison" not in python(LOGGED, NUMBACONV_CACHE_DIR=cache, NUMBACONV_CACHE="0")
    assert {path.read_bytes() for path in entries(cache)} == {b"poison"}


def test_place_by_default(python, tmp_path):
    for variable, place in (("XDG_CACHE_HOME", ""), ("HOME", ".cache")):
        home = tmp_path / variable
        home.mkdir()
        folder = python(WHERE, NUMBACONV_CACHE_DIR=None, **{variable: home}).strip()
        assert os.path.dirname(folder) == str(home / place / "numbaconv")


def test_home_sign_in_the_variable(python, tmp_path):
    folder = python(WHERE, NUMBACONV_CACHE_DIR="~/kernels", HOME=tmp_path).strip()
    assert os.path.dirname(folder) == str(tmp_path / "kernels")


# --- the variables
@pytest.mark.parametrize("value", ["", "2", "true"])
def test_bad_switch(package, tmp_path, value):
    done = child.run(
        "-c", RUN, package=package, NUMBACONV_CACHE=value, NUMBACONV_CACHE_DIR=tmp_path
    )
    assert done.status == 1
    assert f"ValueError: NUMBACONV_CACHE must be 0 or 1, got {value!r}" in done.err


@pytest.mark.parametrize("value", ["  ", "/etc/passwd"])
def test_bad_place(package, value):
    done = child.run("-c", RUN, package=package, NUMBACONV_CACHE_DIR=value)
    assert done.status == 1
    assert f"ValueError: NUMBACONV_CACHE_DIR must name a folder, got {value!r}" in done.err


@pytest.mark.parametrize("command", [("-c", "import numbaconv"), ("-m", "numbaconv", "info")])
def test_bad_variables_stop_info_but_no_import(package, command):
    done = child.run(*command, package=package, NUMBACONV_CACHE="maybe")
    assert done.status == (1 if "info" in command else 0)
    assert ("NUMBACONV_CACHE must be 0 or 1" in done.err) == ("info" in command)


# --- many writers
@pytest.mark.parametrize("processes", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_that_race_to_fill_a_cache(package, python, tmp_path, processes):
    children = [
        child.start("-c", RUN, package=package, NUMBACONV_CACHE_DIR=tmp_path, **QUICK)
        for _ in range(processes)
    ]
    for done in [child.finish(process, timeout=200) for process in children]:
        child.succeed(done)
    before = stamps(tmp_path)
    assert all(path.suffix == ".bin" for path in before)
    python(RUN, NUMBACONV_CACHE_DIR=tmp_path)
    assert stamps(tmp_path) == before


# --- writers that are killed
DIE_BEFORE_RENAME = """
import os, signal
rename, left = os.replace, [{writes}]
def replace(*arguments):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    rename(*arguments)
os.replace = replace
"""
DIE_IN_WRITE = """
import os, signal
fdopen = os.fdopen
class Half:
    def __init__(self, file): self.file = file
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()
    def write(self, content):
        self.file.write(content[:len(content) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
os.fdopen = lambda handle, mode: Half(fdopen(handle, mode))
"""
DEATHS = {
    "rename": DIE_BEFORE_RENAME.format(writes=2),
    "write": DIE_IN_WRITE,
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("death", DEATHS)
def test_a_writer_that_was_killed(package, repaired, tmp_path, death):
    options = {"package": package, "NUMBACONV_CACHE_DIR": tmp_path, **QUICK}
    done = child.run("-c", f"{DEATHS[death]}\n{RUN}", **options)
    assert done.status == -signal.SIGKILL
    (left,) = tmp_path.rglob("*.tmp")
    repaired(tmp_path)
    assert left.exists(), "a young temporary file may be another process's"
    os.utime(left, (0, 0))
    child.succeed(child.run("-c", RUN, **options))
    assert not left.exists()


# --- damaged files
def cut(content, length):
    return content[:length]


def flip(content, position):
    flipped = bytearray(content)
    flipped[position] ^= 1 << (position % 8)
    return bytes(flipped)


def swap(first, second):
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])


HEADER = len(_cache.MAGIC) + _cache.CHECKSUM_BYTES
DAMAGES = {
    "empty": lambda content: b"",
    "one byte": lambda content: cut(content, 1),
    "within the magic": lambda content: cut(content, len(_cache.MAGIC) - 1),
    "magic alone": lambda content: cut(content, len(_cache.MAGIC)),
    "within the checksum": lambda content: cut(content, HEADER - 1),
    "header alone": lambda content: cut(content, HEADER),
    "half": lambda content: cut(content, len(content) // 2),
    "all but a byte": lambda content: cut(content, len(content) - 1),
    "a byte more": lambda content: content + b"\0",
    "bit of the magic": lambda content: flip(content, 0),
    "bit of the checksum": lambda content: flip(content, len(_cache.MAGIC) + 3),
    "first bit of the pickle": lambda content: flip(content, HEADER),
    "bit of the machine code": lambda content: flip(content, len(content) // 2),
    "last bit": lambda content: flip(content, len(content) - 1),
    "zeros": lambda content: bytes(len(content)),
    "random": lambda content: random.Random(0).randbytes(len(content)),
}


def test_each_file_damaged_in_another_way(cache, repaired):
    damages = list(DAMAGES.values())
    *paths, first, second = entries(cache)
    for number, path in enumerate(paths):
        path.write_bytes(damages[number % len(damages)](path.read_bytes()))
    swap(first, second)
    repaired(cache)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", ["empty", "header alone", "half", "bit of the machine code", "random"]
)
def test_every_file_damaged(cache, repaired, damage):
    for path in entries(cache):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    repaired(cache)


@pytest.mark.slow
def test_one_file_damaged_while_the_others_are_whole(cache, repaired):
    for number, path in enumerate(entries(cache)):
        content = path.read_bytes()
        path.write_bytes(cut(content, (0, len(content) // 2)[number % 2]))
        repaired(cache)


@pytest.mark.slow
def test_files_that_have_changed_places(cache, repaired):
    """As by a careless copy, or by two functions of one name."""
    paths = entries(cache)
    for first, second in zip(paths[0::2], paths[1::2], strict=False):
        swap(first, second)
    repaired(cache)


def test_every_length_and_every_bit_of_an_entry(tmp_path):
    path, key, payload = tmp_path / "entry.bin", b"a function(int64)", bytes(range(50))
    _cache.write(path, key, payload)
    whole = path.read_bytes()
    assert _cache.read(path, key) == payload
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert _cache.read(path, key) is None
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert _cache.read(path, key) is None


def test_an_entry_belongs_to_its_key(tmp_path):
    path = tmp_path / "entry.bin"
    _cache.write(path, b"key", b"payload")
    assert _cache.read(path, b"key") == b"payload"
    assert _cache.read(path, b"keyp") is None
    assert _cache.read(path, b"ke") is None


@pytest.mark.slow
def test_an_unreadable_pickle_with_a_right_checksum(python, cache, repaired):
    """As another build of Numba with the same version number might leave."""
    code = f"""
from numbaconv import _cache
write = _cache.write
_cache.write = lambda path, key, payload: write(path, key, b"no pickle")
{RUN}
"""
    for path in entries(cache):
        path.unlink()
    python(code, NUMBACONV_CACHE_DIR=cache)
    assert entries(cache)
    repaired(cache)


# --- places that cannot be written
@pytest.mark.parametrize("place", ["/proc/no/cache", "/dev/null/cache", "~nobody-of-this-name/c"])
def test_a_place_that_cannot_be(python, place):
    assert python(WHERE, NUMBACONV_CACHE_DIR=place).strip() == "None"


@pytest.mark.parametrize("home", ["/proc/no/home", "/dev/null", "/dev/full"])
def test_a_home_that_cannot_be_written(python, home):
    assert python(WHERE, NUMBACONV_CACHE_DIR=None, HOME=home).strip() == "None"


def test_results_are_right_without_a_place(python):
    python(RUN, NUMBACONV_CACHE_DIR=None, HOME="/proc/no/home")


@pytest.mark.slow
def test_a_file_where_the_folder_of_caches_should_be(python, tmp_path):
    (tmp_path / ".cache").write_text("mine")
    assert python(WHERE, NUMBACONV_CACHE_DIR=None, HOME=tmp_path).strip() == "None"
    assert (tmp_path / ".cache").read_text() == "mine"


def test_a_file_where_the_digest_should_be(python, cache):
    folder = folder_of(cache)
    shutil.rmtree(folder)
    folder.write_text("mine")
    assert python(WHERE, NUMBACONV_CACHE_DIR=cache).strip() == "None"
    assert folder.read_text() == "mine"


@pytest.mark.slow
def test_folders_where_entries_should_be(python, cache):
    for path in entries(cache):
        path.unlink()
        path.mkdir()
    python(RUN, NUMBACONV_CACHE_DIR=cache)
    assert not list(cache.rglob("*.tmp"))


@pytest.mark.slow
def test_a_cache_that_disappears_while_it_is_used(python, cache):
    code = f"""
import shutil
{RUN}
shutil.rmtree({str(cache)!r})
import numpy as np
work.check(work.Work(3, 40, 300, np.float64))
"""
    python(code, NUMBACONV_CACHE_DIR=cache)


FULL = {
    "no space": """
import errno, os
fdopen = os.fdopen
class Full:
    def __init__(self, file): self.file = file
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()
    def write(self, content):
        self.file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")
os.fdopen = lambda handle, mode: Full(fdopen(handle, mode))
""",
    "file size limit": """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
""",
    "no file": """
import errno, tempfile
def mkstemp(**_):
    raise OSError(errno.EROFS, "Read-only file system")
tempfile.mkstemp = mkstemp
""",
    "rename refused": """
import os
def replace(*_):
    raise PermissionError("another program holds the file")
os.replace = replace
""",
}


@pytest.mark.skipif(os.name != "posix", reason="needs resource limits")
@pytest.mark.parametrize("obstacle", slow_but_first(FULL))
def test_a_disk_that_takes_no_more(python, tmp_path, obstacle):
    python(f"{FULL[obstacle]}\n{RUN}", NUMBACONV_CACHE_DIR=tmp_path)
    assert not entries(tmp_path)
    python(RUN, NUMBACONV_CACHE_DIR=tmp_path)
    assert entries(tmp_path)


# --- what machine code depends on
def test_an_edit_of_the_emitter_is_never_answered_by_old_code(python, package, cache, tmp_path):
    changed = edited_copy(package, tmp_path / "edited")
    for place, factor in ((package, 1), (changed, 2), (package, 1), (changed, 2)):
        python(EXPECT.format(factor), package=place, NUMBACONV_CACHE_DIR=cache)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.slow
def test_two_versions_side_by_side(python, package, cache, tmp_path):
    before = stamps(cache)
    other = edited_copy(package, tmp_path / "other", "__init__.py", '\n__version__ = "99.0"\n')
    python(RUN, package=other, NUMBACONV_CACHE_DIR=cache)
    assert len(list(cache.iterdir())) == 2
    python(RUN, NUMBACONV_CACHE_DIR=cache)
    assert before.items() < stamps(cache).items()


def test_a_new_module_makes_another_folder(python, package, tmp_path):
    other = edited_copy(package, tmp_path / "other", "cpu/extra.py", "# nothing\n")
    assert python(WHERE, package=other, NUMBACONV_CACHE_DIR=tmp_path) != python(
        WHERE, NUMBACONV_CACHE_DIR=tmp_path
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"NUMBA_CPU_NAME": "haswell"},
        {"NUMBA_CPU_FEATURES": "+sse,+sse2"},
        {"NUMBA_OPT": "1"},
        {"NUMBA_ENABLE_AVX": "0"},
    ],
    ids=str,
)
def test_settings_that_shape_machine_code_make_another_folder(python, filled, tmp_path, changes):
    folder = python(WHERE, **{"NUMBACONV_CACHE_DIR": tmp_path, **changes})
    assert os.path.basename(folder.strip()) != folder_of(filled).name


def test_importing_numba_cuda_keeps_the_folder(python, filled):
    folder = python("import numba.cuda; " + WHERE).strip()
    assert folder == str(folder_of(filled))


def test_settings_of_a_file_and_assigned_ones_make_another_folder(python, filled, tmp_path):
    pytest.importorskip("yaml")  # Numba reads its file by it
    tmp_path.joinpath(".numba_config.yaml").write_text("loop_vectorize: 0\n")
    assigned = "from numba import config; config.SLP_VECTORIZE = 1; "
    from_a_file = f"import os; os.chdir({str(tmp_path)!r}); "
    folders = {folder_of(filled).name}
    for before in (assigned, from_a_file):
        folder = python(before + WHERE, NUMBACONV_CACHE_DIR=tmp_path / "kept")
        folders.add(os.path.basename(folder.strip()))
    assert len(folders) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"NUMBA_NUM_THREADS": "2"},
        {"NUMBA_THREADING_LAYER": "workqueue"},
        {"NUMBA_CACHE_DIR": "/tmp/elsewhere"},
        {"HOME": "/nowhere"},
    ],
    ids=str,
)
def test_settings_that_do_not_shape_it_keep_the_folder(python, filled, changes):
    assert python(WHERE, **changes).strip() == str(folder_of(filled))


def test_names_of_files_do_not_depend_on_the_hash_seed(python, filled):
    before = stamps(filled)
    python(RUN, PYTHONHASHSEED="7")
    assert stamps(filled) == before


# --- pruning
def aged(path, days):
    when = time.time() - days * DAY
    os.utime(path, (when, when))
    return path


@pytest.fixture
def of_age(cache):
    """Make a folder (with a file in it) of that age, in the place of a digest's."""

    def make(name, days):
        (cache / name).mkdir()
        (cache / name / "convolve.bin").write_bytes(b"old")
        return aged(cache / name, days)

    return make


def test_folders_that_nobody_used_are_removed(python, cache, of_age):
    old, young = of_age("0" * 24, 31), of_age("1" * 24, 29)
    python(WHERE, NUMBACONV_CACHE_DIR=cache)
    assert not old.exists()
    assert young.exists()


def test_a_folder_in_use_stays_however_old(python, cache):
    used = aged(folder_of(cache), 400)
    before = stamps(cache)
    python(RUN, NUMBACONV_CACHE_DIR=cache)
    assert stamps(cache) == before
    assert time.time() - used.stat().st_mtime < 600


@pytest.mark.parametrize("name", ["notes", "photos of summer, 200 kB", "0" * 23, "0" * 25])
def test_folders_of_others_stay_however_old(python, cache, of_age, name):
    """NUMBACONV_CACHE_DIR may point to a folder that holds other things, too."""
    foreign = of_age(name, 4000)
    python(WHERE, NUMBACONV_CACHE_DIR=cache)
    assert (foreign / "convolve.bin").read_bytes() == b"old"


def test_a_file_named_as_a_digest_stays(python, cache):
    path = cache / ("0" * 24)
    path.write_bytes(b"mine")
    aged(path, 4000)
    python(WHERE, NUMBACONV_CACHE_DIR=cache)
    assert path.exists()


def test_temporary_files_of_the_dead_are_removed(python, cache):
    old, young = (folder_of(cache) / name for name in ("old.tmp", "young.tmp"))
    for path, hours in ((old, 25), (young, 23)):
        path.write_bytes(b"half")
        aged(path, hours / 24)
    python(WHERE, NUMBACONV_CACHE_DIR=cache)
    assert not old.exists()
    assert young.exists()


def test_a_filled_cache_on_a_read_only_disk_is_still_read(python, cache):
    """As in a container image: nothing there can be touched, not even times."""
    before = stamps(cache)
    refuse = """
import errno, os, pathlib, tempfile
def refuse(*_, **__):
    raise OSError(errno.EROFS, "Read-only file system")
os.utime = os.replace = os.unlink = os.rmdir = tempfile.mkstemp = refuse
from numbaconv import _cache
loaded = []
read = _cache.read
def remember(path, key):
    payload = read(path, key)
    if path.exists():  # without optimisation Numba cannot keep every function
        loaded.append(payload)
    return payload
_cache.read = remember
"""
    python(
        f"{refuse}\n{RUN}\nassert loaded and all(loaded), 'kernels were compiled again'",
        NUMBACONV_CACHE_DIR=cache,
    )
    assert stamps(cache) == before
