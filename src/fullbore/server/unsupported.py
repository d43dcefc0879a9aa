"""Fields of the OpenAI API and of other engines that would change the answer and cannot be honoured yet.

Such a field is refused by name unless it holds a value that asks for nothing. A field with no effect on
the answer here (``user``, ``metadata`` ...) is taken silently.
"""

from collections.abc import Mapping
from typing import Final

from fullbore.server.errors import invalid, unsupported
from fullbore.server.fields import Fields

# Field -> the values, besides null, that ask for nothing.
NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    # structured output
    "response_format": ({"type": "text"},), "structured_outputs": (), "guided_json": (), "guided_regex": (),
    "guided_choice": (), "guided_grammar": (), "guided_decoding_backend": (), "structural_tag": (),
    "regex": (), "ebnf": (), "json_schema": (), "grammar": (),
    # tools
    "tool_choice": ("none",), "functions": (), "function_call": ("none",), "web_search_options": (),
    # other media
    "audio": (), "modalities": (["text"],), "prompt_embeds": (), "mm_processor_kwargs": (), "images": (),
    # templates and context come from the operator of the server
    "chat_template": (), "documents": (), "truncate_prompt_tokens": (), "truncation": ("disabled",),
    "previous_response_id": (), "conversation": (),
    # searching and drawing
    "best_of": (1,), "use_beam_search": (False,), "length_penalty": (1, 0), "early_stopping": (False,),
    "typical_p": (1,), "top_a": (0,), "mirostat": (0,), "bad_words": ([],), "allowed_token_ids": (),
    "logits_processors": ([],), "custom_logit_processor": (), "no_repeat_ngram_size": (0,),
    "thinking_token_budget": (), "reasoning_effort": (), "verbosity": ("medium",), "prediction": (),
    # what else comes back
    "prompt_logprobs": (), "suffix": ("",), "return_hidden_states": (False,), "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,), "add_special_tokens": (True,),
    # placement
    "lora_path": (), "session_params": (), "kv_transfer_params": (), "priority": (0,), "background": (False,),
    "service_tier": ("auto", "default"), "store": (False,),
}  # fmt: skip

# Labels and hints without an effect on any answer here.
WITHOUT_EFFECT = (
    "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "metadata",
    "parallel_tool_calls", "request_id",
)  # fmt: skip


def refuse_unsupported(fields: Fields) -> None:
    """Raise a 400 for the first field that this server cannot honour."""
    if fields.get("tools") == []:
        raise invalid("tools is an empty array, expected at least one tool (or leave it out)", "tools")
    if fields.given("tools"):
        raise unsupported("tools", "calling tools")
    for name, neutral in NEUTRAL.items():
        value = fields.get(name)
        if value is None or any(
            value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral
        ):
            continue
        raise unsupported(fields.path(name))
    for name in WITHOUT_EFFECT:
        fields.get(name)
