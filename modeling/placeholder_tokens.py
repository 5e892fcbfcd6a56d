"""The tokens that stand for media in a prompt."""

from __future__ import annotations

from transformers import AddedToken, PreTrainedTokenizerBase

PLACEHOLDERS = {"video": "<xmei_video>", "audio": "<xmei_audio>"}
PAD = "<xmei_pad>"


def add_placeholders(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """
    Give the tokenizer of a language model one placeholder per modality, and a padding token that is not its end of text.

    Padding with the end-of-text token is how models come to never learn it. Called again, nothing changes; the same
    tokenizer always gets the same ids.

    Returns:
        `{"video": id, "audio": id, "pad": id}`.

    Raises:
        ValueError: the tokenizer has no end-of-text token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer of the language model has no `eos_token`: answers would never end, set one.")
    known = tokenizer.get_vocab()
    new = [AddedToken(token, special=True, normalized=False) for token in PLACEHOLDERS.values() if token not in known]
    tokenizer.add_tokens(new, special_tokens=True)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        if PAD not in known:
            tokenizer.add_tokens([AddedToken(PAD, special=True, normalized=False)], special_tokens=True)
        tokenizer.pad_token = PAD
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in PLACEHOLDERS.items()}
    return {**ids, "pad": tokenizer.pad_token_id}
