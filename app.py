"""The studio's entry, here and on a Space: build the page, open it. `python app.py --help` lists the options."""

import argparse
import os

# Before torch is imported: threads that wait must not burn the cores that another visitor's merge needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from studio.ui.shell.launch import launch

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Open LoRA Loom in the browser.")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    parser.add_argument("--browser", action="store_true", help="open a browser window too")
    options = parser.parse_args()
    launch(options.host, options.port, open_browser=options.browser)
