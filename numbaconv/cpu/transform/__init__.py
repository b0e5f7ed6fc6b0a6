"""Convolution by transforms along the positions: Winograd and FFT in one skeleton.

    tiles of x → forward transform → one GEMM for each transform point → inverse → tiles of y

`scheme` says what a transform is, `toom_cook` and `fourier` write its code, `folding` turns
stride, dilation and polyphase into one shape of tile, `skeleton` holds the loops.
"""
