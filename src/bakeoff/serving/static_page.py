"""A page of three files of a package: markup, style in the report's colours, and script."""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bakeoff.report.paper import rule, themed

KINDS = {
    "/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript"),
}  # fmt: skip


class StaticPage:
    """The files `page.html`, `page.css` and `page.js` of a package, read once."""

    def __init__(self, package: str):
        self.texts = {path: files(package).joinpath(name).read_text("utf-8") for path, (name, _) in KINDS.items()}
        colours = themed(rule(":root", {}, dark=False), rule(":root", {}, dark=True))
        self.texts["/page.css"] = colours + self.texts["/page.css"]

    @property
    def routes(self) -> list[Route]:
        """The routes of its files."""
        return [Route(path, self.answer) for path in KINDS]

    async def answer(self, request: Request) -> Response:
        """Return a file."""
        path = request.url.path
        return Response(self.texts[path], media_type=KINDS[path][1], headers={"cache-control": "no-cache"})
