"""llama.cpp's own converter, for a tokenizer that it does not know. Run with the converter's interpreter.

It tells how text is split into words by a list of known tokenizers and refuses all others; ours splits like
GPT-2's. Arguments: the folder of the llama.cpp source, then what its convert_hf_to_gguf.py takes.
"""

import runpy
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    source = Path(sys.argv.pop(1))
    program = source / "convert_hf_to_gguf.py"
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    from conversion.base import TextModel

    known = TextModel.get_vocab_base_pre

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> Any:
        try:
            return known(self, tokenizer)
        except NotImplementedError:
            return "gpt-2"

    TextModel.get_vocab_base_pre = get_vocab_base_pre
    sys.argv[0] = str(program)
    runpy.run_path(str(program), run_name="__main__")


if __name__ == "__main__":
    main()
