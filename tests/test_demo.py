"""The demo: it reads recordings, is right, says when it is not, and draws."""

import numpy as np
import pytest
from scipy.io import wavfile

from benchmarks import demo
from numbaconv import Conv1D

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def short_timings(monkeypatch):
    """The numbers printed are not under test."""
    monkeypatch.setattr(demo, "median_seconds", lambda run: 1e-3 if run() is not None else 0.0)


@pytest.fixture
def samples():
    """Two channels of 400 samples."""
    t = np.arange(400)[:, None]
    return (0.8 * np.sin(0.02 * t * (1 + t / 100) * [1.0, 2.0])).astype(np.float32)


def save(path, samples, rate=8000):
    """Write samples in the format of the suffix."""
    if path.suffix == ".wav":
        wavfile.write(path, rate, samples)
    elif path.suffix == ".npy":
        np.save(path, samples)
    else:
        np.savetxt(path, samples, delimiter=",", header="left,right", comments="")


def test_electrocardiogram_is_convolved_and_drawn(tmp_path, capsys):
    assert demo.main(["--output", str(tmp_path)]) == 0
    assert (tmp_path / "ecg.png").read_bytes().startswith(PNG)
    printed = capsys.readouterr().out
    assert "every element of every layer is within the error bound" in printed
    assert "WRONG" not in printed
    for stage in demo.chain():
        assert stage.name in printed


@pytest.mark.parametrize("suffix", [".wav", ".npy", ".csv"])
def test_recording_is_read_as_it_was_written(tmp_path, samples, suffix, capsys):
    path = tmp_path / f"tones{suffix}"
    save(path, samples)
    recording = demo.load(path, None)
    np.testing.assert_allclose(recording.channels, samples.T, rtol=1e-6)
    assert recording.rate == (8000 if suffix == ".wav" else None)
    assert demo.main([str(path), "--output", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder" / "tones.png").read_bytes().startswith(PNG)
    assert "2 channel(s) of 400 samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dtype", "zero", "scale"),
    [(np.uint8, 128, 128), (np.int16, 0, 2**15), (np.int32, 0, 2**31), (np.float32, 0, 1)],
)
def test_wav_samples_are_scaled_to_full_scale(tmp_path, samples, dtype, zero, scale):
    wavfile.write(tmp_path / "a.wav", 8000, (samples * (scale - 1) + zero).astype(dtype))
    read = demo.load(tmp_path / "a.wav", None).channels
    np.testing.assert_allclose(read, samples.T, atol=2 / scale + 1e-6)


def test_long_recording_is_cut_and_says_so(tmp_path, samples, capsys):
    save(tmp_path / "a.npy", samples)
    assert demo.main([str(tmp_path / "a.npy"), "--samples", "70", "--output", str(tmp_path)]) == 0
    assert "the first 70 of 400 samples" in capsys.readouterr().out


@pytest.mark.parametrize("length", [1, 2, 30])
def test_recordings_shorter_than_the_filters_are_drawn(tmp_path, length):
    save(tmp_path / "a.npy", np.ones(length))
    assert demo.main([str(tmp_path / "a.npy"), "--output", str(tmp_path)]) == 0


def test_silence_is_drawn(tmp_path):
    save(tmp_path / "a.npy", np.zeros(50))
    assert demo.main([str(tmp_path / "a.npy"), "--output", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.wav", None),
        ("music.mp3", b"ID3"),
        ("noise.wav", b"not a wave file at all"),
        ("cut.wav", b"RIFF\x10\0\0\0WAVEfmt \x10\0"),
        ("archive.npy", b"PK\x03\x04"),
        ("empty.npy", b""),
        ("words.csv", b"left,right\nno,numbers\n"),
        ("ragged.csv", b"1,2\n3\n"),
        ("binary.csv", b"\xff\xfe\x00"),
        ("empty.csv", b""),
        ("hole.csv", b"1\nnan\n3\n"),
        ("huge.csv", b"1\n1e300\n"),
    ],
)
def test_unusable_file_is_one_plain_sentence(tmp_path, name, content, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert demo.main([str(tmp_path / name), "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.endswith(".\n")
    assert name in printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", ["mixing", "envelope"])
@pytest.mark.parametrize("damage", [1e-3, np.nan])
def test_one_wrong_element_is_reported(tmp_path, monkeypatch, capsys, wrong, damage):
    call = Conv1D.__call__

    def damaged(self, x, out=None, **options):
        y = call(self, x, out, **options)
        if self.name == wrong:
            y[0, -1, 0] += damage * np.abs(y).max()
        return y

    monkeypatch.setattr(Conv1D, "__call__", damaged)
    assert demo.main(["--output", str(tmp_path)]) == 1
    # A NaN goes on to later layers, which are then reported after the one that made it.
    assert f"WRONG: {wrong}" in capsys.readouterr().out


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize(
    "parameters",
    [
        dict(padding="same"),
        dict(padding="same", stride=2),
        dict(padding="causal", dilation=3),
        dict(padding="valid", num_groups=2),
        dict(padding=(4, 1), stride=3, padding_mode="reflect"),
        dict(padding=2, padding_mode="circular", num_groups=4),
        dict(padding="same", padding_mode="replicate", dilation=2),
    ],
)
def test_check_knows_every_parameter(parameters, permute):
    """Small integers: both evaluations are exact, so the check sees any difference at all."""
    rng = np.random.default_rng(5)
    layer = Conv1D(3, 4, 8, has_bias=True, permute=permute, **parameters)
    layer.filter = rng.integers(-4, 5, layer.filter.shape).astype(np.float32)
    layer.bias = rng.integers(-4, 5, 8).astype(np.float32)
    x = rng.integers(-4, 5, (2, 4, 21) if permute else (2, 21, 4)).astype(np.float32)
    y = layer(x)
    assert demo.check(layer, x, y) == (0.0, True)
    y.flat[-1] += 1
    assert not demo.check(layer, x, y)[1]


def test_check_sees_every_block(monkeypatch):
    monkeypatch.setattr(demo, "CHECKED_AT_ONCE", 7)
    layer = Conv1D(5, 3, 2, stride=2, padding="same", rng=0)
    x = np.random.default_rng(0).standard_normal((2, 50, 3)).astype(np.float32)
    y = layer(x)
    assert demo.check(layer, x, y)[1]
    for row in range(y.shape[1]):
        damaged = y.copy()
        damaged[1, row, 1] += 0.01
        assert not demo.check(layer, x, damaged)[1]


def test_bands_have_unit_gain_at_their_centres():
    bank = demo.band_pass_bank(63)[:, 0]
    phases = np.exp(-2j * np.pi * demo.band_centres() * np.arange(63)[:, None])
    np.testing.assert_allclose(np.abs((bank * phases).sum(0)), 1, rtol=1e-12)
