"""``fullbore inspect accuracy MODEL --weights int4``: what conversion costs. One model at a time."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer

from fullbore.errors import CheckpointError, UsageError
from fullbore.flags import whole_number
from fullbore.hardware.limits import usable_cores
from fullbore.model.compare import Comparison, compare, predictions
from fullbore.model.config import ModelConfig, load_config
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.load import load_model
from fullbore.model.locate import BUNDLED, locate
from fullbore.model.weights import STORED, add_weights_flag
from fullbore.train.demo_data import Question, questions
from fullbore.train.exact import count_exact
from fullbore.train.tokens import EOS_ID, prompt_text, reply_text

SEQUENCE = 512  # tokens at most that are read in one piece
ANSWER_TOKENS = 250
_SEED = "accuracy"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="demo, a folder, or org/name in the Hugging Face cache")
    add_weights_flag(add)
    add(
        "--text", type=Path, metavar="FILE", help="what to read (default: demo's questions, or random tokens)"
    )
    add("--tokens", type=_count, default=2048, metavar="N", help="of it, at most (default: 2048)")
    add("--questions", type=_count, default=0, metavar="N",
        help="also ask N held-out questions of the demo model, with either weights")  # fmt: skip
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")


def run(args: argparse.Namespace) -> int:
    folder = locate(args.model)
    if args.questions and folder != BUNDLED / "demo":
        raise UsageError(f"--questions are of the demo model; MODEL is {args.model} (leave --questions out)")
    torch.set_num_threads(usable_cores())
    config = load_config(folder)
    sequences = _sequences(folder, config, args.text, args.tokens)
    seen = []
    for weights in (STORED, args.weights):
        # A function's frame holds the model: it is gone before the next one is loaded.
        seen.append(_look(folder, args.dtype, weights, sequences, args.questions))
    print("\n".join(_lines(seen, compare(sequences, seen[0].logits, seen[1].logits))))
    return 0


@dataclass(frozen=True)
class Seen:
    """Of one model: its format, what conversion lost, its predictions, exact answers and questions."""

    format: str
    conversion: str
    logits: list[torch.Tensor]
    exact: tuple[int, int]


def _look(folder: Path, dtype: str, weights: str, sequences: Sequence[list[int]], asked: int) -> Seen:
    model = load_model(folder, dtype, weights=weights)
    exact = _exact(model, folder, asked) if asked else (0, 0)
    return Seen(model.format, model.conversion, predictions(model, sequences), exact)


def _exact(model: DeepseekV3, folder: Path, count: int) -> tuple[int, int]:
    from fullbore.engine.offline import answers

    tokenizer = _tokenizer(folder)
    asked = list(islice(questions("heldout", _SEED), count))
    prompts = [_encode(tokenizer, prompt_text(question.messages)) for question in asked]
    written = answers(model, prompts, ANSWER_TOKENS)
    replies = [tokenizer.decode(ids[:-1] if ids[-1] == EOS_ID else ids) for ids in written]
    return sum(right for right, _ in count_exact(asked, replies).values()), count


def _lines(seen: Sequence[Seen], found: Comparison) -> Iterator[str]:
    stored, converted = seen
    if converted.conversion:
        yield converted.conversion
    yield f"{found.tokens} predictions, {stored.format} (stored) and {converted.format}"
    yield f"  same most likely token    {found.agreement:.2%}"
    yield f"  mean KL divergence        {found.divergence:.3g} nats"
    yield f"  perplexity                {found.perplexity[0]:.5g} and {found.perplexity[1]:.5g}"
    yield f"  largest logit difference  {found.largest:.3g}"
    if stored.exact[1]:
        yield f"  exact answers             {stored.exact[0]} and {converted.exact[0]} of {stored.exact[1]}"


def _sequences(folder: Path, config: ModelConfig, text: Path | None, tokens: int) -> list[list[int]]:
    """What is read: token ids, in pieces that begin anew; 2 at least in each."""
    if text is not None:
        pieces = iter([_encode(_tokenizer(folder), _read(text))])
    elif folder == BUNDLED / "demo":
        tokenizer = _tokenizer(folder)
        pieces = (_encode(tokenizer, _transcript(each)) for each in questions("heldout", _SEED))
    else:
        random = Random(_SEED)
        pieces = iter([[random.randrange(config.vocab_size) for _ in range(tokens)]])
    whole: list[list[int]] = []
    left = max(tokens, 2)
    for piece in pieces:
        for first in range(0, min(len(piece), left), SEQUENCE):
            whole.append(piece[first : first + min(SEQUENCE, left)])
            left -= len(whole[-1])
        if left < 2:
            break
    kept = [sequence for sequence in whole if len(sequence) > 1]
    if not kept:
        raise UsageError(f"--text {text} has fewer than 2 tokens; give a longer text")
    if max(map(max, kept)) >= config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has more ids than the model's {config.vocab_size} rows"
        )
    return kept


def _transcript(question: Question) -> str:
    return prompt_text(question.messages) + reply_text(question)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--text {path} cannot be read as UTF-8: {error}") from error


def _tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no tokenizer.json, which a text needs (leave --text out)")
    return Tokenizer.from_file(str(path))


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _count(text: str) -> int:
    return whole_number(text, 1, 10**6)
