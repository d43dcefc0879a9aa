"""What was said so far in one session, and what its next request asks."""

from typing import Any

from fullbore.scenario.prompt import Material, RandomTokens, RandomWords, Request, Session

BETWEEN = "\n"  # an answer and what is said next


class Conversation:
    """One session as its server sees it: a prompt is all earlier prompts and answers, then what is new.

    Each one begins with exactly the text of the one before, so a prefix cache can serve it.
    """

    def __init__(self, material: Material, session: Session, chat: bool) -> None:
        """A chat is text, and so is what has several turns: answers come as text, not as token ids."""
        self.number = session.number
        self.turn = 0
        self.tokens = 0  # of all that was said
        self._turns = len(session.requests)
        self._chat = chat
        text = chat or self._turns > 1
        self._material = RandomWords() if text and isinstance(material, RandomTokens) else material
        self._said: list[str] = []  # prompt, answer, prompt, answer ...

    @classmethod
    def of_one(cls, material: Material, request: Request, chat: bool) -> "Conversation":
        return cls(material, Session(request.number, (request,)), chat)

    @property
    def goes_on(self) -> bool:
        """Whether a turn follows the next answer."""
        return self.turn + 1 < self._turns

    def ask(self, request: Request) -> dict[str, Any]:
        """The fields of the next request's body that say what is asked."""
        new = self._material.render(request.prompt)
        if not isinstance(new, str):
            return {"prompt": new}
        self._said.append(new)
        if not self._chat:
            return {"prompt": "".join(self._said)}
        roles = ("user", "assistant")
        return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(self._said)]}

    def answered(self, request: Request, answer: str, output_tokens: int) -> None:
        """The next turn may come."""
        self._said.append(answer if self._chat else answer + BETWEEN)
        self.tokens += request.input_tokens + output_tokens
        self.turn += 1
