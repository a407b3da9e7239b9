"""``python -m compare.picture``: the plots of a comparison's page as one PNG, photographed by headless Chromium."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from common import cli
from common.atomic import atomic_file
from common.errors import UserError
from compare import page
from compare.row import PACKAGE
from compare.rows import read_rows

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1000, 1400


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="python -m compare.picture", description="The page's plots as a PNG.", package=PACKAGE)
    parser.add_argument("--out", required=True, help="folder of a comparison")
    parser.add_argument("--png", required=True, help="file to write")
    args = parser.parse_args(argv)
    rows = read_rows(Path(args.out))
    if not rows.metrics:
        raise UserError(f"{args.out} holds no finished row")
    photograph(plots_only(page.html(rows)), Path(args.png))


def plots_only(html: str) -> str:
    """The page without everything but its title and its plots."""
    (plots,) = re.findall(r'<section id="plots">.*?</section>', html, flags=re.DOTALL)
    html = re.sub(r"<main>.*?</main>", lambda _: f"<main>{plots}</main>", html, flags=re.DOTALL)
    html = re.sub(r"<footer>.*?</footer>|<script>.*?</script>|<nav.*?</nav>", "", html, flags=re.DOTALL)
    return re.sub(r"<p>Every method.*?</p>", "", html, flags=re.DOTALL)


def photograph(html: str, png: Path) -> None:
    """Write the picture of a page, cut to what is on it, in 64 colours. Raises UserError without a browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError(f"a picture needs a browser: one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        file, shot = Path(folder) / "page.html", Path(folder) / "page.png"
        file.write_text(html, encoding="utf-8")
        words = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        command = [browser, *words, f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}", file.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        picture = Image.open(shot).convert("RGB")
    ink = Image.eval(picture.convert("L"), lambda v: 255 - v).getbbox()
    picture = picture.crop((0, 0, WIDTH, min(HEIGHT, ink[3] + 16))).quantize(64)
    with atomic_file(png) as temporary:
        picture.save(temporary, format="png", optimize=True)


if __name__ == "__main__":
    sys.exit(main())
