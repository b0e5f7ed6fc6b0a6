"""The transforms themselves, against NumPy's."""

import numpy as np
import pytest

from numbaconv.cpu.transform.fourier import halves
from numbaconv.cpu.transform.kernels import Transform
from numbaconv.cpu.transform.methods import FFT_POINTS
from numbaconv.cpu.transform.scheme import RealFFT, Winograd
from numbaconv.cpu.transform.spectrum import transform_filter
from numbaconv.cpu.transform.toom_cook import matrices
from numbaconv.dispatch import cpu_target


@pytest.mark.parametrize("points", FFT_POINTS)
@pytest.mark.parametrize("gauss", [True, False])
def test_slots_are_all_frequencies_or_their_conjugates(points, gauss):
    scheme = RealFFT(points, gauss)
    signal = np.random.default_rng(0).standard_normal((points, 1, 8))
    planes = transform_filter(signal, scheme, cpu_target())[:, 0]
    wanted = np.fft.rfft(signal[:, 0], axis=0)
    np.testing.assert_allclose(planes[:2], wanted[[0, -1]].real, atol=1e-11)
    parts = planes[2:].reshape(points // 2 - 1, 3, 8)
    left = list(range(1, points // 2))
    re_and_im = parts[:, :2] if gauss else parts[:, 1:]
    for re, im in re_and_im:
        slot = re + 1j * im
        found = [
            k
            for k in left
            if np.allclose(wanted[k], slot, atol=1e-11)
            or np.allclose(wanted[k].conj(), slot, atol=1e-11)
        ]
        assert len(found) == 1
        left.remove(found[0])
    assert not left
    if gauss:
        np.testing.assert_allclose(parts[:, 2], parts[:, 0] + parts[:, 1], atol=1e-12)
    else:
        np.testing.assert_array_equal(parts[:, 0], -parts[:, 2])


@pytest.mark.parametrize("scheme", [Winograd(4, 3), Winograd(2, 5)], ids=lambda s: s.name)
def test_filters_of_winograd(scheme):
    filter = np.random.default_rng(0).standard_normal((scheme.taps, 3, 7))
    planes = transform_filter(filter, scheme, cpu_target())
    g = np.array(matrices(scheme.tile_outputs, scheme.taps)[1], float)
    np.testing.assert_allclose(planes, np.einsum("pk,kio->pio", g, filter), atol=1e-14)


def test_fewer_taps_than_points_are_followed_by_zeros():
    filter = np.random.default_rng(0).standard_normal((5, 2, 3))
    padded = np.concatenate([filter, np.zeros((11, 2, 3))])
    planes = [transform_filter(f, RealFFT(16, True), cpu_target()) for f in (filter, padded)]
    np.testing.assert_array_equal(*planes)


@pytest.mark.parametrize("points", [128, 256, 512])
def test_two_passes_have_whole_halves(points):
    first, second = halves(points)
    assert first * second == points and first % 4 == 0 and second % 4 == 0


def test_names_tell_kernels_apart():
    kinds = [
        Transform(scheme, direction, bits, 16, masked, fma=True).name
        for scheme in (Winograd(2, 3), RealFFT(16, True), RealFFT(16, False))
        for direction in ("forward", "inverse")
        for bits in (32, 64)
        for masked in (True, False)
    ]
    assert len(set(kinds)) == len(kinds)
