"""Save the plots of a comparison's page as a PNG, rendered by headless Chromium (``python -m compare.paper.page_plots``)."""

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
class PagePlots:
    """Save the plots of a comparison's page as a PNG."""

    out: str = option(REQUIRED, "folder of the comparison")
    png: str = option(REQUIRED, "file to write")


def main(argv: Sequence[str] | None = None) -> int:
    return command(PagePlots, save_plots, argv, "python -m compare.paper.page_plots", PACKAGE)


def save_plots(settings: PagePlots) -> None:
    """Run the command."""
    from compare import page
    from compare.result_set import read_results

    result_set = read_results(Path(settings.out))
    if not result_set.results:
        raise UserError(f"{settings.out}: no finished result; run python -m compare first")
    save_screenshot(plots_only(page.html_report(result_set)), Path(settings.png))


def plots_only(html: str) -> str:
    """Reduce the page to its title and plots."""
    (plots,) = re.findall(r'<section id="plots">.*?</section>', html, flags=re.DOTALL)
    html = re.sub(r"<main>.*?</main>", lambda _: f"<main>{plots}</main>", html, flags=re.DOTALL)
    html = re.sub(r"<footer>.*?</footer>|<script>.*?</script>|<nav.*?</nav>", "", html, flags=re.DOTALL)
    return re.sub(r"<p>Every method.*?</p>", "", html, flags=re.DOTALL)


def save_screenshot(html: str, png: Path) -> None:
    """Render a page, crop it to its content, and save it with 64 colors. Raises UserError if there is no browser."""
    from PIL import Image

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError(f"--png {png}: no browser found; install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        file, screenshot = Path(folder) / "page.html", Path(folder) / "page.png"
        file.write_text(html, encoding="utf-8")
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        command = [browser, *options, f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={screenshot}", file.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        image = Image.open(screenshot).convert("RGB")
    content = Image.eval(image.convert("L"), lambda v: 255 - v).getbbox()
    if content is None:
        raise UserError(f"--png {png}: {browser} rendered an empty page")
    image = image.crop((0, 0, WIDTH, min(HEIGHT, content[3] + 16))).quantize(64)
    with atomic_file(png) as temporary:
        image.save(temporary, format="png", optimize=True)


if __name__ == "__main__":
    sys.exit(main())
