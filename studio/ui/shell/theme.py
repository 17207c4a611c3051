"""How the page looks: Gradio's own theme variables, and style for our own classes alone."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

# `page.css` is the Compose tab's; every other room adds `page-ROOM.css`.
CSS = "\n".join(path.read_text("utf-8") for path in sorted((Path(__file__).parent / "static").glob("page*.css")))


def theme() -> gr.Theme:
    """A calm, dense theme, dark and light; fonts of the system, so that nothing is fetched."""
    font = ("ui-sans-serif", "system-ui", "sans-serif")
    plain = gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        spacing_size="sm",
        radius_size="sm",
        text_size="sm",
        font=font,
        font_mono=("ui-monospace", "monospace"),
    )
    return plain.set(
        layout_gap="6px",
        form_gap_width="0px",
        block_padding="3px 6px",
        block_shadow="none",
        block_border_width="0px",
        block_background_fill="*background_fill_primary",
        block_background_fill_dark="*background_fill_primary",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_title_text_size="11px",
        block_title_text_color="*body_text_color_subdued",
        block_info_text_size="11px",
        input_padding="4px 8px",
        input_shadow="none",
        button_small_padding="4px 8px",
    )
