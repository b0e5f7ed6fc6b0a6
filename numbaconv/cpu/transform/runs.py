"""Arrays that are not channel-last in memory: runs of tiles are transposed at once.

A tile of a few positions would take a few elements of every cache line. So positions of x go into
a *strip* that serves the tiles behind as well, and outputs of tiles that follow each other are
gathered before they go to y: 128 → 128 K3 on channel-first arrays takes 0.7 of the time.

What strip and stage hold is in three integers: a row of the batch, the first position, and how
many of them.
"""

from __future__ import annotations

from ... import _jit
from ..memory import call_address, load, move, offset, record, smaller, store

ROW, FIRST, COUNT = range(3)
FIELDS = 3


@_jit.inner
def hold(held, row, first, count):
    store(held, ROW, row)
    store(held, FIRST, first)
    store(held, COUNT, count)


@_jit.inner(result=lambda *kinds: kinds[5])
def strip_at(call, x, row, origin, reach, strip, held):
    """Positions origin … origin+reach-1 of one group of x, channel-last; x is that row's."""
    c = record(call, 0, "transform")
    begin = load(held, FIRST)
    if row != load(held, ROW) or origin < begin or origin + reach > begin + load(held, COUNT):
        begin, count = origin, smaller(c.strip_positions, c.length - origin)
        hold(held, row, begin, count)
        arguments = (
            strip, c.in_channels, 1,
            offset(x, begin * c.x_row), c.x_row, c.x_channel, count, c.in_channels,
        )  # fmt: skip
        call_address(c.copier, arguments)
    return offset(strip, (origin - begin) * c.in_channels)


@_jit.inner(result=lambda *kinds: kinds[5])
def place_in_stage(call, y, row, first, outputs, stage, held):
    """Where a tile of outputs may be written, behind those held or after they have gone to y.

    With dilation the tiles that follow each other hold positions in turn: each goes by itself.
    """
    c = record(call, 0, "transform")
    begin, count = load(held, FIRST), load(held, COUNT)
    follows = c.residues == 1 and row == load(held, ROW) and first == begin + count
    if not follows or count + c.positions > c.stage_positions:
        empty_stage(call, y, stage, held)
        begin, count = first, 0
    hold(held, row, begin, count + outputs)
    return offset(stage, count * c.out_channels)


@_jit.inner
def empty_stage(call, y, stage, held):
    """Write what the stage holds to one group of y."""
    c = record(call, 0, "transform")
    row, begin, count = load(held, ROW), load(held, FIRST), load(held, COUNT)
    if count:
        target = offset(y, row * c.y_batch + begin * c.y_row)
        y_row = c.residues * c.y_row
        if c.is_y_in_place:  # but for a short tile
            columns = c.out_channels
            if y_row == columns:
                count, columns = 1, count * columns
            for i in range(count):
                move(offset(target, i * y_row), offset(stage, i * columns), columns)
        else:
            arguments = (
                target, y_row, c.y_channel, stage, c.out_channels, 1, count, c.out_channels
            )  # fmt: skip
            call_address(c.copier, arguments)
        store(held, COUNT, 0)
