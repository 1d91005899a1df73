"""Errors of the HTTP interface, in the shape that clients of OpenAI's interface know."""

from typing import Any

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that gets no output: an HTTP status, one line, and what of the request is at fault."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, wait: int = 0):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.wait = wait  # seconds after which it may be tried again; 0: not said

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = TYPES.get(self.status) or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """The answer's headers."""
        own = {401: {"www-authenticate": "Bearer"}}.get(self.status, {})
        return own | ({"retry-after": str(self.wait)} if self.wait else {})


FAULT = ApiError(500, "the server itself failed at this request. Its log says where")
