"""The texts of page, cards and LaTeX table stand in *.jinja files beside this one."""

from importlib.resources import files

import jinja2


def text_of(name: str) -> str:
    """A file beside this one."""
    return files("placid.report").joinpath(name).read_text(encoding="utf-8")


def render(name: str, **values: object) -> str:
    """A filled template. Only the page escapes what it is given; the others are given text that is escaped already."""
    environment = jinja2.Environment(
        autoescape=name == "page.jinja", undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text_of(name)).render(values)
