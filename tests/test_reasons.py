"""The page of reason codes says what the code says."""

from pathlib import Path

from neva_prep.dataprep.reasons import REJECTIONS, REPAIRS, WARNINGS

PAGE = Path(__file__).parents[1] / "docs" / "reasons.md"


def test_the_page_lists_every_code_with_its_meaning_and_no_other() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    tables = {**REJECTIONS, **REPAIRS, **WARNINGS}
    assert rows == [f"| `{code}` | {meaning} |" for code, meaning in tables.items()]
