"""MkDocs' hooks: pages beside those of docs/, links from docs/ into the repository, and the sample report.

A page's links are those of the repository, where GitHub shows it. On the site a link to a file outside docs/
leads to a page with the file's content.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from website.gallery import write_sample_report
from website.reference import commands_page, keys_page
from website.walkthrough import SCRIPT, cells_of, page

ROOT = Path(__file__).parents[1]
# Files of the repository that are pages of the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "examples/walkthrough.py": "walkthrough.md",
    "examples/walkthrough.ipynb": "walkthrough.md",
}
WRITTEN = {"all-options.md": commands_page, "all-keys.md": keys_page}
LANGUAGES = {".yaml": "yaml", ".cff": "yaml", ".py": "python"}
_LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=(?:#[^)]*)?\))")
_FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    contents = {PAGES[name]: (ROOT / name).read_text() for name in ("CONTRIBUTING.md", "CHANGELOG.md")}
    contents[PAGES["examples/walkthrough.py"]] = page(cells_of(SCRIPT.read_text()))
    contents |= {name: write() for name, write in WRITTEN.items()}
    for name, content in contents.items():
        files.append(File.generated(config, name, content=content))
    texts = {f.src_uri: f.content_string for f in files.documentation_pages()}
    for place in sorted({place for name, text in texts.items() for place in _files_linked(name, text)}):
        added = File.generated(
            config, _page_of(place), content=_file_page(place), inclusion=InclusionLevel.NOT_IN_NAV
        )
        files.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the repository's links into the site's."""
    source = page.file.src_uri
    start = posixpath.dirname(source)

    def turned(link: re.Match[str]) -> str:
        return posixpath.relpath(_page_of(_place(source, link[1])), start or ".")

    return "".join(
        part if part.startswith("```") else _LINK.sub(turned, part) for part in _FENCE.split(markdown)
    )


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Give the search field a label for screen readers, which Material leaves out."""
    dialog = 'data-md-component="search" role="dialog"'
    return output.replace(dialog, f'{dialog} aria-label="Search"')


def on_post_build(config: MkDocsConfig) -> None:
    """Write the sample report beside the gallery's page."""
    write_sample_report(Path(config.site_dir) / "sample-report")


def _files_linked(source: str, text: str) -> Iterator[str]:
    """Yield the files of the repository to which a page links, and that are no pages of their own."""
    for part in _FENCE.split(text):
        for target in [] if part.startswith("```") else _LINK.findall(part):
            place = _place(source, target)
            if not place.startswith("docs/") and place not in PAGES:
                yield place


def _place(source: str, target: str) -> str:
    """Return where a link of a page leads, from the repository's root."""
    origin = next(
        (name for name, page in PAGES.items() if page == source and page != "index.md"), f"docs/{source}"
    )
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def _page_of(place: str) -> str:
    """Return the page for a file of the repository."""
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    return PAGES.get(place) or f"files/{place}.md"


def _file_page(place: str) -> str:
    """Return the page that shows a file. Raises PluginError for what is no file, or of no known language."""
    path = ROOT / place
    if not path.is_file():
        raise PluginError(f"docs: there is no file {place}, to which a page links")
    suffix = PurePosixPath(place).suffix
    if suffix not in LANGUAGES:
        raise PluginError(f"docs: {place}: {suffix} is not in LANGUAGES of website/hooks.py; add it")
    # A search for words finds them in pages: files would come first, being short.
    head = f"---\nsearch: {{exclude: true}}\n---\n\n# {place}\n\n"
    return f"{head}````{LANGUAGES[suffix]}\n{path.read_text()}````\n"
