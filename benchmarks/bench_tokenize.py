"""Tokens and labels a second: encode_conversations beside Hugging Face's assistant mask.

Both get the same conversations (LLaVA-like: mean 4.5 turns, about 280 tokens), the same chat
template with `{% generation %}` and the same tokenizer, in one process, in turns; the labels must
come out equal. CPU seconds of one core are counted, medians of the rounds.

Run: python benchmarks/bench_tokenize.py [TOKENIZER_DIR]
Without a folder, the first vocabulary of Mistral is used, which mistral-common ships.
(A file named tokenize.py here would hide Python's own module from every script beside it.)
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizer import make_tokenizer

from neva_prep.templates import ConversationTemplate, encode_conversations, get_template

RESULTS = Path(__file__).parent / "results" / "tokenize.json"
SAMPLES, ROUNDS, BATCH = 1500, 7, 64
TEMPLATE = "v1"
WORDS = """
    a the one two several man woman child dog cat bird horse bus train car bicycle kitchen street
    beach field table plate bowl cup window door sign light sky water snow tree grass building red
    blue green yellow white black wooden large small young old empty crowded bright dark standing
    sitting walking riding holding looking waiting playing eating parked placed shown is are appears
    seems with without near behind beside under above between around and or while in on at of to
    from into through possibly probably clearly image picture scene background
""".split()  # noqa: SIM905


def sentence(rng: random.Random, words: int, end: str) -> str:
    """Words in a row, as captions have them."""
    text = " ".join(rng.choice(WORDS) for _ in range(words))
    return text.capitalize() + end


def conversation(rng: random.Random) -> list[dict[str, str]]:
    """A mean of 4.5 turns of a question and an answer, about 280 tokens with the system text."""
    messages = []
    for turn in range(rng.choice((2, 3, 4, 5, 6, 7))):
        question = sentence(rng, rng.randint(5, 12), "?")
        answer = " ".join(
            sentence(rng, rng.randint(8, 16), ".") for _ in range(rng.choice((1, 1, 2, 4, 5)))
        )
        messages.append({"from": "human", "value": "<image>\n" * (turn == 0) + question})
        messages.append({"from": "gpt", "value": answer})
    return messages


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of one run."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure both in turns, compare their labels, print and write the figures."""
    from transformers import AutoTokenizer

    rng = random.Random(0)
    # The peer knows no images: it gets the placeholder as the text that it is, and so do we.
    conversations = [conversation(rng) for _ in range(SAMPLES)]
    tokenizer = (
        AutoTokenizer.from_pretrained(sys.argv[1]) if len(sys.argv) > 1 else make_tokenizer()
    )
    library = get_template(TEMPLATE)
    text_only = [
        [{**message, "value": message["value"].replace("<image>\n", "")} for message in messages]
        for messages in conversations
    ]
    system = {"role": "system", "content": library.system}
    roles = {"human": "user", "gpt": "assistant"}
    for_peer = [
        [system, *({"role": roles[m["from"]], "content": m["value"]} for m in messages)]
        for messages in text_only
    ]
    peer_template = peer_source(library)

    def ours(some: list[Any]) -> list[Any]:
        return [
            sample
            for start in range(0, len(some), BATCH)
            for sample in encode_conversations(
                some[start : start + BATCH], tokenizer=tokenizer, template=library
            )
        ]

    def peer() -> list[tuple[list[int], list[int]]]:
        pairs = []
        for start in range(0, SAMPLES, BATCH):
            out = tokenizer.apply_chat_template(
                for_peer[start : start + BATCH],
                chat_template=peer_template,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
            pairs += zip(out["input_ids"], out["assistant_masks"], strict=True)
        return pairs

    check_equal(ours(text_only), peer())
    seconds: dict[str, list[float]] = {"ours": [], "ours, with images": [], "hugging face": []}
    for _ in range(ROUNDS):
        seconds["ours"].append(cpu_seconds(lambda: ours(text_only)))
        seconds["ours, with images"].append(cpu_seconds(lambda: ours(conversations)))
        seconds["hugging face"].append(cpu_seconds(peer))
    rates = {name: SAMPLES / statistics.median(times) for name, times in seconds.items()}
    ratios = [
        theirs / mine for mine, theirs in zip(seconds["ours"], seconds["hugging face"], strict=True)
    ]
    samples = ours(conversations)
    report = {
        "schema_version": 1,
        "samples": SAMPLES,
        "mean_turns": statistics.mean(len(m) / 2 for m in conversations),
        "mean_tokens": statistics.mean(len(sample.tokens) for sample in samples),
        "tokenizer": type(tokenizer).__name__
        + (" (given)" if len(sys.argv) > 1 else " (mistral v1)"),
        "template": TEMPLATE,
        "samples_per_cpu_second": {name: round(rate) for name, rate in rates.items()},
        "ratio_to_hugging_face": round(statistics.median(ratios), 2),
        "ratio_least": round(min(ratios), 2),
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("transformers", "tokenizers", "jinja2")},
        },
    }
    for name, rate in rates.items():
        print(f"{name:20} {rate:8.0f} samples per CPU second")
    print(f"ratio                {statistics.median(ratios):8.2f} (least {min(ratios):.2f})")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


def peer_source(library: ConversationTemplate) -> str:
    """The same template with its words written out: Hugging Face passes no roles."""
    user, assistant = library.roles
    return (
        library.chat_template.replace("roles[0]", repr(user))
        .replace("roles[1]", repr(assistant))
        .replace("message['role'] + ':'", repr(assistant + ":"))
        .replace("stop_string", repr(library.stop_string))
    )


def check_equal(samples: list[Any], pairs: list[tuple[list[int], list[int]]]) -> None:
    """Stop when the two disagree: a faster wrong mask is worth nothing."""
    for sample, (ids, mask) in zip(samples, pairs, strict=True):
        own = sample.tokens.tolist()
        added = len(own) - len(ids)  # our BOS, which Hugging Face leaves to the template
        assert own[added:] == list(ids) and added in (0, 1)
        assert (sample.labels[added:] != -100).tolist() == [bool(value) for value in mask]


def processor() -> str:
    """Name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
