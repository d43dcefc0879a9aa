"""Token by token from ids to text, with no character shown before all of its bytes are there."""

import codecs

from fullbore.server.tokenizer import Tokenizer


class Detokenizer:
    """One sequence's text. What ``push`` and ``flush`` return, joined, is ``tokenizer.decode`` of all ids.

    A byte-level token is a run of bytes, so only an unfinished UTF-8 character (at most three bytes) is kept
    back. U+FFFD comes out where bytes have proved to be no UTF-8, and from ``flush`` where they break off.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text that has become certain with token ``id``; often, but not always, that token's own."""
        return self._decoder.decode(self._tokenizer.token_bytes(id, self._skip_special))

    def flush(self) -> str:
        """The rest: the replacement character if the sequence ended inside a character, else nothing."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
