"""What `benchmarks.first_minutes` takes from the tutorial."""

from __future__ import annotations

from benchmarks.first_minutes import DEMO, TUTORIAL, blocks


def test_blocks_have_the_heading_above_them() -> None:
    page = "# T\n## 1. A\n```bash\ncd x\n```\ntext\n```\noutput\n```\n## 2. B\n```python\n# run a.py\nprint()\n```\n```bash\nls\n```\n"
    assert [(block.heading, block.language, block.code) for block in blocks(page)] == [
        ("1. A", "bash", "cd x\n"),
        ("2. B", "python", "# run a.py\nprint()\n"),
        ("2. B", "bash", "ls\n"),
    ]


def test_the_tutorial_begins_with_a_clone_and_ends_with_the_demo_page() -> None:
    first, *others = blocks(TUTORIAL.read_text())
    assert first.code.startswith("git clone URL ")
    assert [DEMO in block.code for block in others] == [False] * (len(others) - 1) + [True]
    assert all(block.code.startswith("# .venv/bin/python ") for block in others if block.language == "python"), (
        "the first line names the file"
    )
