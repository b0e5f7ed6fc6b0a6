"""A CUDA driver without a GPU: its memory is the interpreter's, its launches interpret PTX.

It stands where `numbaconv.cuda.driver.Driver` stands, so that everything above, from the layer
to the block of parameters, is the code that runs on a machine with a GPU.
"""

import ctypes
from contextlib import nullcontext

import numpy as np

from numbaconv.cuda.arrays import _DLDevice, _DLTensor
from numbaconv.cuda.kernel import Device
from numbaconv.cuda.tensor_map import maps_of
from tests.cuda.ptx.block import launch
from tests.cuda.ptx.memory import GLOBAL_BASE, GlobalMemory
from tests.cuda.ptx.program import Program

new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Function:
    def __init__(self, program):
        self.handle = program
        self.shared = 48 << 10


class FakeDriver:
    """The interface of `Driver`, on an interpreter."""

    device_count = 1

    def __init__(self, capability=(8, 0), shared_memory=163 << 10, multiprocessors=4):
        self._device = Device(0, "interpreter", capability, multiprocessors, shared_memory)
        self.launches, self.encoded, self.later = [], [], []
        self.capturing = set()  # streams
        self._base = GLOBAL_BASE
        self.reset()

    def reset(self):
        self._base += 1 << 32  # what is freed late belongs to no new array
        self.memory = GlobalMemory(base=self._base)
        self.sizes = {}
        self.synchronized = []
        self.launches.clear()
        maps_of.cache_clear()

    def device(self, ordinal):
        if ordinal:
            raise RuntimeError(f"device='cuda:{ordinal}' is not there, this machine has 1")
        return self._device

    def current(self, ordinal):
        return nullcontext()

    def device_of(self, address):
        return 0

    def allocate(self, size):
        address = self.memory.allocate(max(1, size))
        self.sizes[address] = max(1, size)
        return address

    def free(self, address):
        if address in self.sizes:  # not of a memory before `reset`
            self.memory.free(address, self.sizes.pop(address))

    def to_device(self, address, array):
        assert array.flags.c_contiguous
        self.memory.write(address, array.reshape(-1).view(np.uint8))

    def to_host(self, array, address):
        array.reshape(-1).view(np.uint8)[:] = self.memory.read(address, array.nbytes)

    def to_device_later(self, address, array, stream):
        self.later.append((address, array.copy(), stream))

    def is_capturing(self, stream):
        return stream in self.capturing

    def encode_map(self, base, shape):
        """All that a map says, as the interpreter reads it."""
        self.encoded.append((base, shape))
        numbers = [*shape.extents, *shape.strides, 0, *shape.box, *shape.steps, base, 0]
        return np.array(numbers + [0] * 2, np.int64).view(np.uint8)

    def synchronize(self, stream):
        self.synchronized.append(stream)

    def load(self, image):
        return Function(Program(image.code.decode()))

    def allow_shared(self, function, size):
        assert size <= self._device.shared_memory
        function.shared = max(function.shared, size)

    def launch_kernel(self, program, *arguments):
        *numbers, stream, parameters, _ = arguments
        gx, gy, gz, threads, _, _, shared = (number.value for number in numbers)
        values = []
        for (kind, _), pointer in zip(program.parameters, parameters, strict=True):
            ctype = {"u64": ctypes.c_int64, "u32": ctypes.c_int32}[kind]
            values.append(ctype.from_address(pointer).value)
        self.launches.append((program.name, (gx, gy, gz), threads, shared, stream))
        launch(program, self.memory, values, (gx, gy, gz), threads, shared)
        return 0


class FakeArray:
    """An array of another library on the fake device, with any strides and offset.

    Parameters
    ----------
    driver : FakeDriver
    memory : numpy.ndarray
        All of the memory that the array's library has allocated for it.
    view : numpy.ndarray
        A view of `memory`: the array.
    """

    def __init__(self, driver, memory, view=None):
        view = memory if view is None else view
        self.driver, self._view = driver, view
        low, size = extent(memory)
        self._size = size
        self._address = driver.allocate(size)
        if memory.size:
            raw = (ctypes.c_ubyte * size).from_address(low)
            driver.to_device(self._address, np.frombuffer(raw, np.uint8).copy())
        self._begin = view.__array_interface__["data"][0] - low if view.size else 0
        self.__cuda_array_interface__ = {
            "shape": view.shape, "typestr": view.dtype.str, "strides": view.strides,
            "data": (self._address + self._begin, not view.flags.writeable), "version": 3,
            "stream": None,
        }  # fmt: skip

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, stream=None):
        """A capsule, as torch gives it for bfloat16, which no typestr can name."""
        view, tensor = self._view, _DLTensor()
        numbers = ctypes.c_int64 * view.ndim
        strides = [stride // view.itemsize for stride in view.strides]
        self._kept = tensor, numbers(*view.shape), numbers(*strides)
        tensor.data = self._address
        tensor.byte_offset = self._begin
        tensor.device = _DLDevice(2, 0)
        tensor.ndim, tensor.lanes, tensor.bits = view.ndim, 1, 8 * view.itemsize
        tensor.code = 4 if view.dtype.name == "bfloat16" else 2
        tensor.shape, tensor.strides = self._kept[1:]
        self.dlpack_stream = stream
        return new_capsule(ctypes.addressof(tensor), b"dltensor", None)

    def read(self):
        """The numbers that lie there now."""
        raw = np.empty(self._size, np.uint8)
        self.driver.to_host(raw, self._address)
        return np.ndarray(
            self._view.shape, self._view.dtype, raw, self._begin, self._view.strides
        ).copy()


def extent(array):
    """First address, and bytes from there to the last element's end."""
    reaches = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    below, above = (sum(f(0, reach) for reach in reaches) for f in (min, max))
    first = array.__array_interface__["data"][0]
    return (first + below, above - below + array.itemsize) if array.size else (first, 0)
