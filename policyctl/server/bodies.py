"""From a request's body to a document: checked against its shape, otherwise kept as it was sent, nulls dropped."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

from pydantic import ValidationError
from pydantic_core import from_json

from policyctl.model.normal import Document
from policyctl.model.policy import without_nulls
from policyctl.server.exchange import Failure
from policyctl.server.shapes import Shape


def read_json(shape: type[Shape], body: bytes) -> Document:
    """The document of a JSON body. Raises Failure (422, one entry a mistake) when it is not of that shape."""
    try:
        data = from_json(body, allow_inf_nan=False)
        json.dumps(data, allow_nan=False)  # 1e999 is read as infinity, which JSON cannot say
    except ValueError as error:
        raise _invalid([{"loc": ["body"], "msg": f"not JSON: {error}", "type": "json_invalid"}]) from None
    return _checked(shape, data)


def read_form(shape: type[Shape], body: bytes) -> Document:
    """The same of a form-encoded body. A key that is there twice is a list, which no shape takes for text."""
    try:
        text = body.decode("ascii")
        values = parse_qs(text, keep_blank_values=True, max_num_fields=100, errors="strict")
    except ValueError:
        raise _invalid([{"loc": ["body"], "msg": "not an encoded form", "type": "form_invalid"}]) from None
    return _checked(shape, {key: found[0] if len(found) == 1 else found for key, found in values.items()})


def _checked(shape: type[Shape], data: Any) -> Document:
    try:
        shape.model_validate(data)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False, include_input=False)
        raise _invalid([{**mistake, "loc": ["body", *mistake["loc"]]} for mistake in mistakes]) from None
    document: Document = without_nulls(data)
    return document


def _invalid(mistakes: list[dict[str, Any]]) -> Failure:
    return Failure(422, mistakes)
