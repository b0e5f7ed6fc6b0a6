"""Ceilings: what is measured where, not how fast this machine is."""

from benchmarks import roofline


def test_the_peak_behind_is_that_of_bursts_right_now(monkeypatch):
    roofline.fma_peak_behind()  # compiles
    monkeypatch.setattr(roofline, "launch_seconds", lambda threads, dtype: 1e-4)
    taken = iter([5e-4, 3e-4, 1.1e-3])
    monkeypatch.setattr(
        roofline, "fma_seconds", lambda threads, dtype, steps: (next(taken), threads * steps)
    )
    # The best burst counts, without the time that launching threads takes.
    assert roofline.fma_peak_behind(2) == 2 * roofline.STEPS_BEHIND / (3e-4 - 1e-4)
    assert next(taken, None) is None
