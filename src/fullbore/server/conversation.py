"""The messages of a chat request: roles and plain text, and nothing that would have to be fetched."""

from fullbore.server.errors import invalid, unsupported
from fullbore.server.fields import NAMES, Fields, show
from fullbore.server.limits import Limits

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MEDIA = (
    "image_url",
    "input_image",
    "image",
    "input_audio",
    "audio",
    "video_url",
    "video",
    "file",
    "input_file",
)


def read_messages(fields: Fields, limits: Limits) -> list[dict[str, str]]:
    """``[{"role", "content", ...}]``, text parts joined by line breaks; ``developer`` becomes ``system``."""
    given = fields.array("messages", limits.messages)
    if given is None:
        raise invalid(
            "messages is missing, expected an array of at least one message", "messages", "missing_field"
        )
    if not given:
        raise invalid("messages is empty, expected at least one message", "messages")
    return [_message(fields, value, f"messages[{index}]", limits) for index, value in enumerate(given)]


def _message(parent: Fields, value: object, where: str, limits: Limits) -> dict[str, str]:
    if not isinstance(value, dict):
        raise invalid(f"{where} is {show(value)}, expected an object with role and content", where)
    fields = Fields(value, where)
    role = fields.choice("role", None, ROLES)
    if role is None:
        raise invalid(
            f"{where}.role is missing, expected one of {', '.join(ROLES)}", f"{where}.role", "missing_field"
        )
    if role in ("tool", "function"):
        raise unsupported(f"{where}.role", "a message of a tool")
    for name in ("tool_calls", "function_call", "audio"):
        if fields.get(name) not in (None, []):
            raise unsupported(f"{where}.{name}")
    message = {"role": "system" if role == "developer" else role, "content": _content(fields, limits)}
    thought = fields.string("reasoning_content", None)
    if thought is None:
        thought = fields.string("reasoning", None)
    if thought is not None:
        message["reasoning_content"] = thought
    fields.string("name", None, limits.name_chars)
    fields.string("refusal", None)
    parent.also_unread(fields)
    return message


def _content(fields: Fields, limits: Limits) -> str:
    value = fields.get("content")
    where = fields.path("content")
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise invalid(f"{where} is {show(value)}, expected a string or an array of text parts", where)
    if not 1 <= len(value) <= limits.content_parts:
        raise invalid(f"{where} has {len(value)} parts, expected 1 to {limits.content_parts}", where)
    return "\n".join(_part(fields, part, f"{where}[{index}]") for index, part in enumerate(value))


def _part(parent: Fields, value: object, where: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        raise invalid(f"{where} is {NAMES.get(type(value))}, expected an object with type and text", where)
    fields = Fields(value, where)
    kind = fields.get("type")
    if kind in MEDIA:
        raise unsupported(f"{where}.type", f"{where} of type {kind!r} (this model reads text only)")
    if kind != "text":
        raise invalid(f"{where}.type is {show(kind)}, expected 'text'", f"{where}.type")
    text = fields.string("text", None)
    if text is None:
        raise invalid(f"{where}.text is missing, expected a string", f"{where}.text", "missing_field")
    parent.also_unread(fields)
    return text
