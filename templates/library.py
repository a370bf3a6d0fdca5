"""The library: a small .jinja a template, and the words that go with it."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from ..errors import TemplateError
from .render import ConversationTemplate

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
NEMO_SYSTEM = (
    "A chat between a curious user and artificial assistant agent. The assistant gives helpful, "
    "detailed and polite answers to user's questions."
)
V0_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
MPT_SYSTEM = (
    "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and "
    "honest answers."
)
LLAMA_2_SYSTEM = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe.  Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially "
    "unbiased and positive in nature.\n\nIf a question does not make any sense, or is not "
    "factually coherent, explain why instead of answering something not correct. If you don't "
    "know the answer to a question, please don't share false information."
)
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
INTERNVL_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的"
    "多模态大语言模型。"
)
EXTRA_ID_STOP = "\n<extra_id_1>"

# name -> (system, roles, stop string, puts BOS in front, begins with the user)
_WORDS: dict[str, tuple[str | None, tuple[str, str], str, bool, bool]] = {
    "v1": (VICUNA_SYSTEM, ("USER", "ASSISTANT"), "</s>", True, True),
    "v0": (V0_SYSTEM, ("Human", "Assistant"), "\n### ", True, False),
    "plain": (None, ("", ""), "\n", True, False),
    "llama_2": (LLAMA_2_SYSTEM, ("user", "assistant"), "</s>", True, True),
    "llama_3": (None, ("user", "assistant"), "<|eot_id|>", False, False),
    "mistral_instruct": (None, ("user", "assistant"), "</s>", True, True),
    "mpt": (MPT_SYSTEM, ("user", "assistant"), "<|im_end|>", True, True),
    "chatml": (None, ("user", "assistant"), "<|im_end|>", False, False),
    "qwen2_5": (QWEN_SYSTEM, ("user", "assistant"), "<|im_end|>", False, False),
    "gemma_instruct": (None, ("user", "model"), "<end_of_turn>", False, False),
    "zephyr": (None, ("user", "assistant"), "</s>", False, False),
    "phi_3": (None, ("user", "assistant"), "<|end|>", False, False),
    "nvgpt": (VICUNA_SYSTEM, ("User", "Assistant"), EXTRA_ID_STOP, False, False),
    "nv_steerlm": (VICUNA_SYSTEM, ("User", "Assistant"), EXTRA_ID_STOP, False, False),
    "nv_dpo": (None, ("User", "Assistant"), EXTRA_ID_STOP, False, False),
    "internvl2_5": (INTERNVL_SYSTEM, ("user", "assistant"), "<|im_end|>", True, False),
    "neva": (NEMO_SYSTEM, ("user", "assistant"), "</s>", True, False),
}
_ALIASES = {"vicuna_v1": "v1", "llava_v1": "v1", "llava_v0": "v0"}


def list_templates() -> list[str]:
    """Names that `get_template` knows, without second names."""
    return list(_WORDS)


def source_of(name: str) -> str:
    """The Jinja text of a template of the library."""
    return files(__package__).joinpath(f"{name}.jinja").read_text(encoding="utf-8")


@lru_cache(maxsize=64)
def get_template(name: str) -> ConversationTemplate:
    """A template of the library.

    Raises:
        TemplateError: no template has this name.
    """
    known = _ALIASES.get(name, name)
    if known not in _WORDS:
        raise TemplateError(
            f"no template is called {name!r}; there are {', '.join(_WORDS)}, "
            f"and {', '.join(_ALIASES)}"
        )
    system, roles, stop_string, add_bos, user_first = _WORDS[known]
    return ConversationTemplate(
        name=known,
        chat_template=source_of(known),
        system=system,
        roles=roles,
        stop_string=stop_string,
        add_bos=add_bos,
        user_first=user_first,
        uses_user_text=known != "plain",
        trusted=True,
    )
