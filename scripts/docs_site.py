"""Hooks of mkdocs: READMEs and figures of all packages are pages of the site, beside ``docs/``, with links that work there."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "[!.]*/README.md", "[!.]*/results/*.md")
FIGURES = ("[!.]*/docs/*.png", "[!.]*/results/*.png", "[!.]*/results/*.svg")
LINK = re.compile(
    r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
)
ROLE = re.compile(r":(?:func|class|mod|meth|attr|data):(?=<code>)")


def on_files(files, config):
    """Add the READMEs, generated pages and figures of the packages."""
    for pattern in (*PAGES, *FIGURES):
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith("docs/"):
                files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite links as they work in the repository: ``docs/`` is the root of the site, and files that are no pages are not linked."""
    source = page.file.src_uri
    place = posixpath.dirname(Path(page.file.abs_src_path).relative_to(ROOT).as_posix())

    def rewrite(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(place, match["target"]))
        found = files.get_file_from_path(target.removeprefix("docs/")) or files.get_file_from_path(
            f"{target}/README.md"
        )
        if found is None:
            return match["text"] if (ROOT / target).exists() else match[0]  # mkdocs reports what does not exist
        link = posixpath.relpath(found.src_uri, posixpath.dirname(source) or ".")
        return f"{match['image']}[{match['text']}]({link}{match['anchor'] or ''})"

    return LINK.sub(rewrite, markdown)


def on_page_content(html, page, config, files):
    """Remove the roles that docstrings have for names, such as ``:func:``, which Markdown does not know."""
    return ROLE.sub("", html)
