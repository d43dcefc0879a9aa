"""Greedy answers to many prompts without a server: the scheduler and the runner that serve, in one loop."""

from collections.abc import Sequence

from fullbore.engine.messages import Sampling, Submit
from fullbore.engine.runner import Runner
from fullbore.engine.scheduler import Scheduler
from fullbore.errors import FullboreError
from fullbore.model.deepseek import DeepseekV3

_PAGE, _ROWS, _STEP_TOKENS = 16, 32, 512


def answers(model: DeepseekV3, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """The tokens after each prompt, an end token included where one came within ``max_tokens``.

    FullboreError where a row of logits is no number.
    """
    ends = model.config.eos_token_ids
    longest = max(map(len, prompts)) + max_tokens
    pages = _ROWS * -(-longest // _PAGE)
    scheduler = Scheduler(pages, _PAGE, _ROWS, _STEP_TOKENS, len(prompts), longest, ends)
    runner = Runner(model, pages, _PAGE, ends)
    written: list[list[int]] = [[] for _ in prompts]
    for number, prompt in enumerate(prompts):
        scheduler.submit(Submit(number, list(prompt), max_tokens, Sampling(temperature=0.0)))
    while (step := scheduler.plan()) is not None:
        for event in scheduler.commit(step, runner.launch(step).sampled()):
            if event.error:
                raise FullboreError(f"prompt {event.request} cannot be answered: {event.error}")
            written[event.request].append(event.token)
    return written
