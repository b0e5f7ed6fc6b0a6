"""The public list: 1-D convolution layers of real models, each with its source.

float32, channel-last, without bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Problem:
    """One layer with the input that it is timed on.

    `padding` is (left, right). x is (N, L, C_in), w is (K, C_in/G, C_out), y is
    (N, L_out, C_out).
    """

    name: str
    source: str
    batch: int
    length: int
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: tuple[int, int] = (0, 0)

    @property
    def length_out(self) -> int:
        reach = self.dilation * (self.kernel_size - 1) + 1
        return (self.length + sum(self.padding) - reach) // self.stride + 1

    @property
    def x_shape(self) -> tuple[int, int, int]:
        return self.batch, self.length, self.in_channels

    @property
    def w_shape(self) -> tuple[int, int, int]:
        return self.kernel_size, self.in_channels // self.groups, self.out_channels

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return self.batch, self.length_out, self.out_channels

    @property
    def flops(self) -> int:
        """Multiplications and additions of the definition, those with padding included."""
        taps = self.kernel_size * self.in_channels // self.groups
        return 2 * self.batch * self.length_out * self.out_channels * taps

    @property
    def bytes_read(self) -> int:
        """x and w once."""
        return 4 * sum(int(np.prod(shape)) for shape in (self.x_shape, self.w_shape))

    @property
    def bytes_written(self) -> int:
        """y once."""
        return 4 * int(np.prod(self.y_shape))

    @property
    def intensity(self) -> float:
        """Operations for each byte that has to move."""
        return self.flops / (self.bytes_read + self.bytes_written)

    def arrays(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """x and w: normal, w scaled so that y is of the order of one."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(self.x_shape, np.float32)
        w = rng.standard_normal(self.w_shape, np.float32)
        w /= np.float32(np.sqrt(self.kernel_size * self.in_channels // self.groups))
        return x, w


# fmt: off
PROBLEMS: tuple[Problem, ...] = (
    #         N        L  C_in C_out     K  s    d     G padding
    Problem("max_doc_example", "max.nn.Conv1D documentation",
             1,    1000,   64,  128,    3, 1,   1,    1, (0, 0)),
    Problem("whisper_conv1", "openai/whisper model.py (tiny)",
             1,    3000,   80,  384,    3, 1,   1,    1, (1, 1)),
    Problem("whisper_conv2", "openai/whisper model.py (tiny)",
             1,    3000,  384,  384,    3, 2,   1,    1, (1, 1)),
    Problem("wav2vec2_fe0", "wav2vec2-base feature extractor",
             1,   16000,    1,  512,   10, 5,   1,    1, (0, 0)),
    Problem("wav2vec2_fe1", "wav2vec2-base feature extractor",
             1,    3199,  512,  512,    3, 2,   1,    1, (0, 0)),
    Problem("wav2vec2_pos", "wav2vec2-base positional conv",
             1,     499,  768,  768,  128, 1,   1,   16, (64, 64)),
    Problem("hifigan_rb256_k7", "HiFi-GAN v1 resblock",
             1,    8192,  256,  256,    7, 1,   1,    1, (3, 3)),
    Problem("hifigan_rb128_k3", "HiFi-GAN v1 resblock",
             1,   16384,  128,  128,    3, 1,   1,    1, (1, 1)),
    Problem("hifigan_rb64_k11_d5", "HiFi-GAN v1 resblock",
             1,   16384,   64,   64,   11, 1,   5,    1, (25, 25)),
    Problem("hifigan_rb32_k7_d3", "HiFi-GAN v1 resblock",
             1,   32768,   32,   32,    7, 1,   3,    1, (9, 9)),
    Problem("hifigan_post", "HiFi-GAN v1 conv_post",
             1,   65536,   32,    1,    7, 1,   1,    1, (3, 3)),
    Problem("dac_res64_k7_d9", "descript-audio-codec residual unit",
             1,   44100,   64,   64,    7, 1,   9,    1, (27, 27)),
    Problem("encodec_stem", "EnCodec 24 kHz stem",
             1,   24000,    1,   32,    7, 1,   1,    1, (6, 0)),
    Problem("encodec_down_k16_s8", "EnCodec 24 kHz downsampling",
             1,     600,  256,  512,   16, 8,   1,    1, (8, 0)),
    Problem("wavenet_d512", "WaveNet causal layer",
             1,   16000,   32,   64,    2, 1, 512,    1, (512, 0)),
    Problem("tcn_d8_causal", "Bai et al. TCN, pMNIST",
            64,     784,   25,   25,    7, 1,   8,    1, (48, 0)),
    Problem("inception_k40", "InceptionTime",
            64,     512,   32,   32,   40, 1,   1,    1, (19, 20)),
    Problem("inception_bottleneck", "InceptionTime 1x1",
            64,     512,  128,   32,    1, 1,   1,    1, (0, 0)),
    Problem("atacworks", "AtacWorks / arXiv 2104.08002",
             2,   60000,   15,   15,   51, 1,   8,    1, (200, 200)),
    Problem("basenji_stem", "Basenji2 stem",
             1,  131072,    4,  288,   15, 1,   1,    1, (7, 7)),
    Problem("enformer_tower", "Enformer conv tower",
             1,    3072, 1280, 1536,    5, 1,   1,    1, (2, 2)),
    Problem("mamba_dw4", "Mamba-1 130m short conv",
             2,    2048, 1536, 1536,    4, 1,   1, 1536, (3, 0)),
    Problem("conformer_dw31", "NeMo Conformer-L depthwise",
             4,    1000,  512,  512,   31, 1,   1,  512, (15, 15)),
    Problem("vits_disc_g16", "VITS discriminator",
             1,    2048,   64,  256,   41, 4,   1,   16, (20, 20)),
    Problem("eegnet_temporal", "EEGNet temporal (64 electrodes as batch)",
            64,     128,    1,    8,   64, 1,   1,    1, (31, 32)),
    Problem("fir_101", "single-channel FIR",
             1, 1000000,    1,    1,  101, 1,   1,    1, (50, 50)),
    Problem("rocket_k9_d32", "ROCKET kernel bank, 100 filters",
            16,    1024,    1,  100,    9, 1,  32,    1, (0, 0)),
    Problem("demucs_enc2", "Demucs v3 encoder",
             1,  110250,   64,  128,    8, 4,   1,    1, (0, 0)),
    Problem("pointwise_512", "1x1 projection",
             1,    2000,  512,  512,    1, 1,   1,    1, (0, 0)),
    Problem("streaming_step", "one causal step",
             1,       3,   16,   16,    3, 1,   1,    1, (0, 0)),
    Problem("tiny", "latency",
             1,      16,   16,   16,    3, 1,   1,    1, (2, 0)),
    Problem("grouped_k16_g16", "groups of 4 to 8 channels",
            16,    1024,   64,  128,   16, 1,   1,   16, (0, 0)),
    Problem("fir_1023", "single-channel FIR, long",
             1, 1000000,    1,    1, 1023, 1,   1,    1, (511, 511)),
)
# fmt: on


# One layer by its kernel size: what transforms gain, drawn by `benchmarks.transforms plot`.
KERNEL_SIZES = tuple(
    Problem(
        f"kernel_size_{taps}", "drawn against K", 1, 4096, 64, 64, taps,
        padding=((taps - 1) // 2, taps // 2),
    )
    for taps in (1, 2, 3, 5, 7, 9, 11, 15, 23, 31, 47, 63, 95, 127)
)  # fmt: skip


def named(name: str) -> Problem:
    """The layer of either list with this name."""
    for problem in (*PROBLEMS, *KERNEL_SIZES):
        if problem.name == name:
            return problem
    raise KeyError(f"no layer {name!r}; there are {', '.join(p.name for p in PROBLEMS)}")
