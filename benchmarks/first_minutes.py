"""Follow docs/tutorial.md in a fresh clone, command by command, and time it up to three answers that can be compared.

    python -m benchmarks.first_minutes [--folder DIR] [--json FILE] [--picture FILE]

Every block of the page is run as it stands, in its order, each from where the last one ended; `URL` is this checkout. The last one,
`coat demo`, is opened in a real browser: an example is played until the player's time advances, then its question is asked, and the answers
of base, `sft` and `coat` are waited for. A command that fails ends it. It needs what `make services` installs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, print_machine
from benchmarks.pages import pages
from tests.testing import chain_runs
from tests.testing.browser import chromium, reason_to_skip

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs/tutorial.md"
DEMO = "coat demo"


@dataclass(frozen=True)
class Block:
    """A block of code of the page, with the heading above it."""

    heading: str
    language: str
    code: str


def blocks(page: str) -> list[Block]:
    """Return the blocks of Bash and Python of a Markdown page, in their order."""
    found, heading = [], ""
    for match in re.finditer(r"^## (?P<heading>[^\n]+)$|^```(?P<language>bash|python)\n(?P<code>.*?)^```$", page, re.MULTILINE | re.DOTALL):
        heading = match["heading"] or heading
        if match["code"]:
            found.append(Block(heading, match["language"], match["code"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="default: a temporary folder")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--picture", type=Path, default=None, help="of the demo page with the three answers")
    options = parser.parse_args()
    if reason := reason_to_skip():
        sys.exit(f"{reason}: make services")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="coat-first-minutes-"))
    folder.mkdir(parents=True, exist_ok=True)
    machine, commit = describe_machine(), _commit()
    print_machine(machine)
    rows, answers = follow(blocks(TUTORIAL.read_text()), folder, options.picture)
    total = sum(row["seconds"] for row in rows)
    print(f"{total:>7.1f}  from the clone to three answers: {answers}")
    if options.json:
        content = {"machine": machine, "commit": commit, "seconds": round(total, 1), "steps": rows, "answers": answers}
        options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def follow(steps: list[Block], folder: Path, picture: Path | None) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Run the blocks, the demo last. Return the seconds of each step, and the answers of the demo by arm."""
    rows: list[dict[str, Any]] = []
    place = folder
    for block in steps:
        started = time.monotonic()
        if DEMO not in block.code:
            place = run(block, place, folder / "here")
            _print(rows, block.heading, block.code.strip().splitlines()[0 if block.language == "python" else -1], started)
            continue
        with pages(block.code.split(), place, "http://") as (address, *_):
            _print(rows, block.heading, "the page is there", started)
            return rows, compare(address, rows, block.heading, picture)
    raise SystemExit(f"no block of {TUTORIAL.name} starts {DEMO}")


def run(block: Block, place: Path, here: Path) -> Path:
    """Run a block in a folder; return the folder in which it ended, whose path is written to `here`."""
    if block.language == "python":
        name = block.code.splitlines()[0].rsplit(" ", 1)[1]
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(block.code)
        code = f".venv/bin/python {name}"
    else:
        code = block.code.replace("URL", str(ROOT))
    done = subprocess.run(
        ["bash", "-e", "-c", f"{code}\npwd > '{here}'"],
        cwd=place,
        env=chain_runs.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{block.heading}: {code}\nended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    print(done.stdout[-1200:], flush=True)
    return Path(here.read_text().strip())


def compare(address: str, rows: list[dict[str, Any]], heading: str, picture: Path | None) -> dict[str, str]:
    """Play an example on the demo page, ask its question, and return the answers by arm."""
    from playwright.sync_api import expect

    expect.set_options(timeout=1000 * chain_runs.HANG_S)
    with chromium() as browser:
        started = time.monotonic()
        page = browser.new_page(viewport={"width": 1240, "height": 1000})
        page.set_default_timeout(1000 * chain_runs.HANG_S)
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        page.select_option("#sample", index=1)
        page.locator("#player").evaluate("player => player.play()")
        expect(page.locator("#player")).not_to_have_js_property("currentTime", 0)
        _print(rows, heading, "a clip is played", started)
        started = time.monotonic()
        page.click("#send")
        expect(page.locator("#status")).to_have_text("done")
        answers = {card.get_attribute("data-model"): card.locator(".text").inner_text() for card in page.locator(".answer").all()}
        _print(rows, heading, "three answers", started)
        if picture:
            page.screenshot(path=picture, full_page=True)
    if len(answers) != 3:
        raise SystemExit(f"the page has the answers of {list(answers)}, not of three models")
    return answers


def _print(rows: list[dict[str, Any]], heading: str, what: str, started: float) -> None:
    rows.append({"step": heading, "what": what, "seconds": round(time.monotonic() - started, 1)})
    print(f"{rows[-1]['seconds']:>7.1f}  {heading}: {what}", flush=True)


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
