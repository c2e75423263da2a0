"""A run's report, written: one HTML file, and its pictures as files of their own where they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from phasewatch.errors import Unavailable
from phasewatch.report.page import page
from phasewatch.report.run import RunFacts, Tell
from phasewatch.report.run_pictures import Picture, pictures, to_png, to_svg, to_svg_file

_FORMATS: Mapping[str, Callable[[Picture], bytes]] = {"png": to_png, "svg": to_svg_file}


def write_report(
    facts: RunFacts, out: Path, folders: Mapping[str, Path] | None = None, tell: Tell = lambda done, total: None
) -> list[Path]:
    """Writes the page to `out`, and each picture into the folder of each format, png or svg; the paths written.

    Raises Unavailable where one cannot be written.
    """
    found, files = pictures(facts), [] if folders is None else list(folders.items())
    drawn, paths, total = [], [out], len(found) * (1 + len(files))
    for done, picture in enumerate(found, start=1):
        drawn.append((picture.title, picture.caption, to_svg(picture)))
        tell(done, total)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page(facts, drawn), encoding="utf-8", newline="\n")
        for number, (suffix, folder) in enumerate(files, start=1):
            folder.mkdir(parents=True, exist_ok=True)
            for done, picture in enumerate(found, start=number * len(found) + 1):
                paths.append(folder / f"{picture.name}.{suffix}")
                paths[-1].write_bytes(_FORMATS[suffix](picture))
                tell(done, total)
    except OSError as error:
        raise Unavailable(
            f"the report cannot be written: {error}; name another place with --out, --png or --svg"
        ) from error
    return paths
