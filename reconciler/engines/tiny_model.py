"""`python tiny_model.py FOLDER`: a randomly initialised Llama of 0.9 MB with tokenizer and chat template.

Run by the workload's interpreter (torch, transformers), never by the daemon's. Used by the demo and by the tests.
"""

from __future__ import annotations

import os
import sys


def make_tokenizer(folder: str) -> None:
    """Byte-level BPE without merges worth speaking of: every text has tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["git push is the only deployment command"], trainer)
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)


def make_model(folder: str) -> None:
    """The same seed every time, so that equal requests get equal answers on every machine."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 4096}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, **layers)).to(torch.bfloat16).save_pretrained(folder)


def main(folder: str) -> None:
    """Write the model into `folder`, which may exist."""
    os.makedirs(folder, exist_ok=True)
    make_tokenizer(folder)
    make_model(folder)
    # safetensors writes 0600; a service that runs as another user could not read it.
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), 0o644)


if __name__ == "__main__":
    main(sys.argv[1])
