"""What pytest leaves alone where the optional numba-cuda is not installed."""

from importlib.util import find_spec

collect_ignore = []
if find_spec("numba_cuda") is None:
    collect_ignore += ["numbaconv/cuda/frontend.py", "numbaconv/cuda/instructions.py"]
