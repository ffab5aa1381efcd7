"""Folders of tiny models of transformers with random weights, and texts for them."""

import numpy as np

WORDS = [
    *("the", "a", "one", "old", "cat", "dog", "mat", "tree"),
    *("sat", "ran", "slept", "on", "under", "near", "and", "home"),
]


def _tokenizer(folder, *, bert):
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = [*("[PAD]", "[UNK]", "[CLS]", "[SEP]"), *WORDS]
    words = {word: i for i, word in enumerate(names)}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if bert:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)


def write_bert(folder, *, tokenizer=True):
    """A masked language model of two layers, 16 wide."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    if tokenizer:
        _tokenizer(folder, bert=True)
    return folder


def write_gpt2(folder, *, tokenizer=True):
    """A causal language model of one layer, 16 wide."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=16, n_embd=16, n_layer=1, n_head=2
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    if tokenizer:
        _tokenizer(folder, bert=False)
    return folder


def write_text(path, n_words=2000, seed=0):
    """Words that the tokenizers know, at random."""
    words = np.random.default_rng(seed).choice(WORDS, n_words)
    path.write_text(" ".join(words), encoding="utf-8")
    return path
