"""Make the pictures of the site: what commands print, a conversation, the emulator's page, and the benchmarks.

`make docs` runs it. They go into `docs/assets/pictures/`, which git ignores. The conversation needs tmux, and
the emulator's page Chromium; where one is not installed its picture says so.
"""

from __future__ import annotations

import base64
import html
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from rich.console import Console
from rich.text import Text
from tests.cli.tmux import Tmux
from tests.emulator.browser import CHROMIUM, Browser
from tests.pages import ROOT, tables

from kluster_integrations.emulator import Emulator
from kluster_integrations.emulator.replies import load

__all__: list[str] = []

PICTURES = ROOT / "docs" / "assets" / "pictures"
KLUSTER = [sys.executable, "-m", "kluster_integrations.cli"]
REPLIES = ROOT / "examples" / "replies.yaml"
COMMANDS = {"demo": ["demo"], "models": ["models"]}
CONVERSATION = ["What is the capital of France?", "/model r1", "What is 12 times 12?"]
COLUMNS = 92
"""What fits into the width of a picture (docs/assets/extra.css) in letters as large as the text's."""


def command(name: str, address: str) -> str:
    """Return what a command prints on a terminal, as SVG."""
    with tempfile.TemporaryDirectory() as home:
        env = _environment(home, address) | {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "PYTHONIOENCODING": "utf-8"}
        run = [*KLUSTER, *COMMANDS[name]]
        output = subprocess.run(run, env=env, cwd=home, check=True, capture_output=True, encoding="utf-8").stdout
    return _picture(name, COMMANDS[name], re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8090", output))


def conversation(address: str) -> str:
    """Return a conversation of `kluster chat`, typed into a terminal, as SVG."""
    if shutil.which("tmux") is None:
        return _missing("tmux")
    args = ["chat", "gemma", "--usage", "--no-log"]
    with tempfile.TemporaryDirectory() as home:
        terminal = Tmux(Path(home), [*KLUSTER, *args], _environment(home, address), columns=COLUMNS)
        try:
            for number, line in enumerate(CONVERSATION, 1):
                terminal.prompted(number)
                terminal.enter(line)
            terminal.prompted(len(CONVERSATION) + 1)
            return _picture("chat", args, terminal.colors.rstrip())
        finally:
            terminal.close()


def _environment(home: str, address: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("KLUSTER", "OPENAI", "XDG", "TMUX"))}
    mine = {"HOME": home, "TERM": "screen-256color", "KLUSTER_BASE_URL": address, "KLUSTER_API_KEY": "emulator-key"}
    return kept | mine


def _picture(name: str, args: list[str], output: str) -> str:
    """Return a terminal with a title, as SVG that loads nothing from another host."""
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, PTH123
    console.print(Text.from_ansi(output))
    svg = console.export_svg(title="$ kluster " + shlex.join(args), unique_id=f"kluster-{name}")
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace(
        "Fira Code", "ui-monospace, DejaVu Sans Mono"
    )


def emulator_page(server: Emulator) -> str:
    """Return a screenshot of the emulator's page, as it is after the commands above and two requests more."""
    if CHROMIUM is None:
        return _missing("Chromium")
    with httpx.Client(base_url=server.base_url, headers={"Authorization": "Bearer emulator-key"}) as client:
        client.post("embeddings", json={"model": "BAAI/bge-m3", "input": "Bees dance."})
        client.post("chat/completions", json={"model": "google/gemma-3-27b-it", "messages": [], "n": 2})  # refused
    with Browser() as browser, tempfile.TemporaryDirectory() as folder:
        width, height = 1200, 560
        browser.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=False)
        browser.do("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(server.base_url.removesuffix("/v1") + "/")
        browser.until("[...document.querySelectorAll('tr')].some((row) => row.innerText.includes('400'))")
        answered = "[...document.querySelectorAll('tr')].find((row) => row.innerText.includes('DeepSeek-R1'))"
        browser.js(f"{answered}.querySelector('button').click()")
        browser.until("document.body.innerText.includes('Answer')")
        browser.screenshot(Path(folder) / "page.png")
        data = base64.b64encode((Path(folder) / "page.png").read_bytes()).decode()
    return _svg(width, height, f'<image width="{width}" height="{height}" href="data:image/png;base64,{data}"/>')


def benchmarks() -> str:
    """Return a plot of the figures of docs/comparison.md, which its tests compare with the runs."""
    (rows,) = [table for table in tables((ROOT / "docs" / "comparison.md").read_text("utf-8")) if "ratio" in table[0]]
    top, height, left, width = 40, 26, 360, 400
    title = "CPU time as a share of what is behind the slash; at the dashed line both are equal"
    drawn = [f'<text x="10" y="20" class="quiet">{title}</text>']
    for number, row in enumerate(rows):
        y, ratio = top + number * height, float(row["ratio"])
        label = html.escape(f"{row['measured']} / {row['compared with'].strip('`')}")
        drawn.append(f'<text x="{left - 8}" y="{y + 16}" text-anchor="end">{label}</text>')
        drawn.append(f'<rect x="{left}" y="{y + 3}" width="{min(ratio, 1.5) * width / 1.5:.0f}" height="18" rx="2"/>')
        drawn.append(f'<text x="{left + min(ratio, 1.5) * width / 1.5 + 6:.0f}" y="{y + 16}">{row["ratio"]}</text>')
    bottom = top + len(rows) * height
    one = left + width / 1.5
    drawn.append(f'<line x1="{one:.0f}" x2="{one:.0f}" y1="{top - 6}" y2="{bottom + 6}"/>')
    return _svg(left + width + 60, bottom + 20, "\n".join(drawn))


def _missing(program: str) -> str:
    return _svg(600, 60, f'<text x="10" y="35">This picture is made where {program} is installed.</text>')


def _svg(width: int, height: int, drawn: str) -> str:
    style = (
        "text { font: 14px system-ui, sans-serif; fill: #444 } .quiet { fill: #777 } rect { fill: #4a5fc1 }"
        " line { stroke: #c0392b; stroke-dasharray: 4 3 } svg { background: #fff }"
    )
    box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" style="background: #fff"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n<style>{style}</style>\n{drawn}\n</svg>\n'


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with Emulator() as server:
        for reply in load(str(REPLIES)):
            server.reply(**reply)  # type: ignore[arg-type]
        made = {name: command(name, server.base_url) for name in COMMANDS}
        made["chat"] = conversation(server.base_url)
        made["emulator"] = emulator_page(server)
    made["benchmarks"] = benchmarks()
    for name, svg in made.items():
        (PICTURES / f"{name}.svg").write_text(svg, "utf-8")


if __name__ == "__main__":
    main()
