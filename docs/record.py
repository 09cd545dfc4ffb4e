"""Records `main.py adopt`, `main.py` and the page on a data set, for the readme's first screen.

Usage: uv run --group web docs/record.py FILE ARGUMENTS …   the arguments of `main.py adopt`; needs Debian's chromium
Reads:  the last commit, of which it makes a copy
Writes: docs/images/adopt.gif, and prints the output as text
"""

from credit_risk.core.entry_point import run

import html
import re
import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.project.served import environment_of_copy, served

TARGET = root() / "docs" / "images" / "adopt.gif"
WIDTH, HEIGHT, LINES, COLUMNS = 1000, 680, 36, 118  # pixels, and the terminal's lines and columns in them
SECONDS = (4, 5, 5, 6)  # of each frame
COLORS = 64
STYLE = "margin:0;padding:14px;background:#1b1f24;color:#d7dde4;font:13.2px/17.6px DejaVu Sans Mono,monospace"


def main() -> None:
    """Runs the commands in a copy of the project and writes the recording."""
    file, *arguments = sys.argv[1:] or [""]
    if not Path(file).is_file():
        raise ProjectError("usage: uv run --group web docs/record.py FILE ARGUMENTS OF ADOPT")
    if not (browser := shutil.which("chromium")):
        raise ProjectError("chromium is not installed; run `apt-get install chromium`")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder, "project")
        subprocess.run(["git", "clone", "-q", str(root()), str(project)], check=True)
        command = " ".join(["adopt", Path(file).name, *(f'"{word}"' if " " in word else word for word in arguments)])
        adopted = output(project, command, "main.py", "adopt", str(Path(file).resolve()), *arguments)
        trained = output(project, "", "main.py")
        screens = [adopted[:LINES], adopted[-LINES:], trained[-LINES:]]
        with served(project, environment(project)) as address:
            frames = photographs(browser, screens, address)
    first, *others = [frame.quantize(COLORS) for frame in frames]
    durations = [1000 * seconds for seconds in SECONDS]
    first.save(TARGET, save_all=True, append_images=others, duration=durations, loop=0, optimize=True)
    print("\n".join([*adopted, *trained]))


def output(project: Path, shown: str, *arguments: str) -> list[str]:
    """The command as it is typed, and the lines that it prints."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment(project), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ProjectError(f"{' '.join(arguments)} failed: {done.stderr.strip() or done.stdout[-500:]}")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return [f"$ uv run main.py {shown}".rstrip(), *(part for line in lines for part in wrapped(line))]


def wrapped(line: str) -> list[str]:
    """A line as a terminal breaks it."""
    return [line[start : start + COLUMNS] for start in range(0, len(line), COLUMNS)] or [""]


def environment(project: Path) -> dict[str, str]:
    """That of the copy: its package, and a terminal's width."""
    return environment_of_copy(project) | {"COLUMNS": str(COLUMNS)}


def photographs(browser: str, screens: list[list[str]], address: str) -> list[Image.Image]:
    """The screens of a terminal, and the page with a prediction."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])  # has none for root
        page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        pictures = []
        for lines in screens:
            page.set_content(f'<body style="{STYLE}"><pre style="font:inherit;margin:0">{colored(lines)}</pre></body>')
            pictures.append(page.screenshot())
        page.goto(address)
        page.locator("#examples button").last.click()
        page.locator("#panel-one form > div:last-child > button").first.click()
        page.wait_for_selector("#result :not(:empty)")
        page.wait_for_load_state("networkidle")
        page.evaluate("window.scrollTo(0, 0)")
        pictures.append(page.screenshot())
        chromium.close()
    return [Image.open(BytesIO(picture)).convert("RGB") for picture in pictures]


def colored(lines: list[str]) -> str:
    """The lines as HTML: commands and what is left out in colour."""
    text = html.escape("\n".join(lines), quote=False)
    text = re.sub(r"(?m)^\$ .*$", r'<b style="color:#7ee787">\g<0></b>', text)
    return re.sub(r"not used|What a person must decide", r'<b style="color:#ffa657">\g<0></b>', text)


if __name__ == "__main__":
    run("record", main)
