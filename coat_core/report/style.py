"""Style of the figures: palette, font, and PNG files of limited size."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from coat_core.settings import ARMS
from coat_core.storage import write_bytes

PAPER, INK, MUTED, FAINT = "#fcfbf8", "#20242f", "#7d828f", "#e6e3dc"
MEASURED, MEASURED_SOFT = "#2c3e73", "#c8d0e4"
"""Colours of features that an expert measured on the audio."""
PREDICTED, PREDICTED_SOFT = "#e0492b", "#f7cdbd"
"""Colours of features that a head predicted from the thinking block."""
ARM_COLOURS = dict(zip(ARMS, ("#a3a7b1", "#4f78b3", "#8467ad", PREDICTED, "#c49a2a", "#4b8f6b", "#b0577f"), strict=False))
"""Colour of each arm, in the order of `ARMS`."""
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
    """Yield a figure of this size in inches, in the style of the report; global matplotlib settings are restored."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        yield Figure(figsize=(width, height))


def sequential(soft: str, strong: str, deep: str = "#14161d") -> Any:
    """Return a colour map from the paper colour through a soft and a strong colour to a deep one."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("paper", [(0.0, PAPER), (0.35, soft), (0.75, strong), (1.0, deep)])


def drawable(text: str) -> str:
    """Return a text that matplotlib can draw: one line, `$` escaped, a box for each glyph that the font lacks."""
    from matplotlib.font_manager import findfont, get_font

    glyphs = get_font(findfont("DejaVu Sans")).get_charmap()
    shown = "".join(letter if ord(letter) in glyphs else "□" for letter in " ".join(text.split()))
    return shown.replace("$", r"\$")


def save_png(figure: Any, path: Path) -> None:
    """Write a figure as a PNG of at most 300 kB; if needed, in 256 colours and then at a lower resolution."""
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
