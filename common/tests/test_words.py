"""The project's words: terms that were replaced, and British spellings, do not come back. Reads files only."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLD_TERMS = (
    r"anew|yardsticks?|pictures?|goes on|to the bit|by turns|at hand|without a word|mistakes?|refus\w+|living|halt(s|ed|ing)?"
    r"|makes? no sense|so many|is worth|the seed's"
)
BRITISH = (
    r"\w*(normalis|optimis|quantis|initialis|recognis|organis|summaris|regularis|generalis|minimis|maximis|serialis|parallelis"
    r"|penalis|visualis|categoris|emphasis[ei]|vectoris|factoris|standardis|specialis|synchronis|randomis)\w*"
    r"|colour\w*|licences?|centres?d?|neighbours?\w*|behaviours?|favour\w*|honour\w*"
    r"|label+ed(?<!labeled)|modelled|analysed?(?<!analys)|catalogue|grey|artefacts?|programme|whilst|learnt"
)
FORBIDDEN = re.compile(rf"\b({OLD_TERMS}|{BRITISH})\b", re.IGNORECASE)
QUOTED = re.compile(r"connection refused|conda-forge/\S+|refused\.json", re.IGNORECASE)  # quotations, an old file name
SUFFIXES = (".py", ".md", ".toml", ".sh", ".ipynb", ".cff", ".css", ".js", ".yaml")


def written_files() -> list[str]:
    """Files that people write: neither results nor recorded runs."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    return [name for name in listed if name.endswith(SUFFIXES) and "/tests/data/" not in name and name not in EXEMPT]


# Files that must name old terms: this one and the one that replaces them.
EXEMPT = (str(Path(__file__).resolve().relative_to(ROOT)), "scripts/migrate_results.py")
PLACES = sorted({name.split("/")[0] for name in written_files()})


@pytest.mark.parametrize("place", PLACES)
def test_old_terms_and_british_spellings_are_absent(place):
    found = [
        f"{name}:{number}: {match[0]}: {line.strip()[:120]}"
        for name in written_files()
        if name.split("/")[0] == place
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        for match in FORBIDDEN.finditer(QUOTED.sub("", line.replace("_", " ")))
    ]
    assert not found, "\n".join([f"{len(found)} places", *found])


@pytest.mark.parametrize(
    "text", ["made anew", "write_pictures", "Refused", "the colour", "normalised", "test_mistakes_are"]
)
def test_forbidden_words_are_found(text):
    assert FORBIDDEN.search(text.replace("_", " "))


@pytest.mark.parametrize("text", ["color", "colored", "an image", "labeled", "analysis", "emphasis", "seed 0", "worth"])
def test_standard_words_are_allowed(text):
    assert not FORBIDDEN.search(text)
