"""How the page looks: Gradio's own theme variables, and style for our own classes alone."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

CSS = (Path(__file__).parent / "static" / "page.css").read_text()


def theme() -> gr.Theme:
    """A calm, dense theme, dark and light; fonts of the system, so that nothing is fetched."""
    font = ("ui-sans-serif", "system-ui", "sans-serif")
    return gr.themes.Soft(
        primary_hue="blue",
        neutral_hue="slate",
        spacing_size="sm",
        radius_size="sm",
        text_size="sm",
        font=font,
        font_mono=("ui-monospace", "monospace"),
    )
