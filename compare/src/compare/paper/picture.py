"""``python -m compare.paper.picture``: the plots of a comparison's page as one PNG, photographed by headless Chromium."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.atomic import atomic_file
from common.errors import UserError
from common.settings import REQUIRED, command, option, settings
from compare.settings import PACKAGE

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1000, 1400


@settings
class Picture:
    """The page's plots as a PNG."""

    out: str = option(REQUIRED, "folder of a comparison")
    png: str = option(REQUIRED, "file to write")


def main(argv: Sequence[str] | None = None) -> int:
    return command(Picture, draw, argv, "python -m compare.paper.picture", PACKAGE)


def draw(settings: Picture) -> None:
    """The command."""
    from compare import page
    from compare.rows import read_rows

    rows = read_rows(Path(settings.out))
    if not rows.metrics:
        raise UserError(f"{settings.out} holds no finished row")
    photograph(plots_only(page.html(rows)), Path(settings.png))


def plots_only(html: str) -> str:
    """The page without everything but its title and its plots."""
    (plots,) = re.findall(r'<section id="plots">.*?</section>', html, flags=re.DOTALL)
    html = re.sub(r"<main>.*?</main>", lambda _: f"<main>{plots}</main>", html, flags=re.DOTALL)
    html = re.sub(r"<footer>.*?</footer>|<script>.*?</script>|<nav.*?</nav>", "", html, flags=re.DOTALL)
    return re.sub(r"<p>Every method.*?</p>", "", html, flags=re.DOTALL)


def photograph(html: str, png: Path) -> None:
    """Write the picture of a page, cut to what is on it, in 64 colours. Raises UserError without a browser."""
    from PIL import Image

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
    if ink is None:
        raise UserError(f"{browser} left the picture of the page blank")
    picture = picture.crop((0, 0, WIDTH, min(HEIGHT, ink[3] + 16))).quantize(64)
    with atomic_file(png) as temporary:
        picture.save(temporary, format="png", optimize=True)


if __name__ == "__main__":
    sys.exit(main())
