"""How the figures look: one palette, one type, and PNGs small enough to commit."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from coat_core.storage import write_bytes

PAPER, INK, MUTED, FAINT = "#fcfbf8", "#20242f", "#7d828f", "#e6e3dc"
SOUND, SOUND_SOFT = "#2c3e73", "#c8d0e4"
"""What was measured from the sound itself, by the experts."""
THOUGHT, THOUGHT_SOFT = "#e0492b", "#f7cdbd"
"""What was read from the thinking block."""
ARM_COLOURS = {"base": "#a3a7b1", "sft": "#4f78b3", "block": "#8467ad", "coat": THOUGHT, "coat_shuffled": "#c49a2a"}
MAX_PNG_BYTES = 300_000

_RC = {
    "font.family": "DejaVu Sans", "font.size": 9.0, "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": "#c9c6be",
    "axes.facecolor": PAPER, "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "axes.linewidth": 0.6, "axes.spines.top": False,
    "axes.spines.right": False, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 8.0, "ytick.labelsize": 8.0,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 3.0, "ytick.major.size": 3.0, "lines.solid_capstyle": "round",
    "axes.titlesize": 10.0, "axes.titleweight": "bold", "axes.titlelocation": "left", "legend.frameon": False,
}  # fmt: skip


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Any]:
    """Give a figure of that size in inches, in the house style; no global state is touched."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        yield Figure(figsize=(width, height))


def sequential(soft: str, strong: str, deep: str = "#14161d") -> Any:
    """Return a colour map from paper over a soft and a strong colour to a deep one."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("paper", [(0.0, PAPER), (0.35, soft), (0.75, strong), (1.0, deep)])


def drawable(text: str) -> str:
    """Return a text that can be drawn as it stands: one line, no mathematics, a box for each glyph that the font lacks."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    shown = "".join(letter if ord(letter) in known else "□" for letter in " ".join(text.split()))
    return shown.replace("$", r"\$")


def save_png(figure: Any, path: Path) -> None:
    """Write a figure as a PNG of at most 300 kB: in 256 colours where it must be, and at a lower resolution where that is not enough."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas, data = FigureCanvasAgg(figure), b""
    for dpi, colours in ((120, None), (120, 256), (100, 256), (84, 256), (72, 256)):
        if colours is None or figure.dpi != dpi:
            figure.set_dpi(dpi)
            canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        small = io.BytesIO()
        (image if colours is None else image.quantize(colours)).save(small, format="png", optimize=True)
        data = small.getvalue()
        if len(data) <= MAX_PNG_BYTES:
            break
    write_bytes(path, data)
