"""Trains the tiny cross-encoder; about a minute on one core. Its weights are checked in: run this only to change them.

    ~/.cache/serai/engines/vllm-…/bin/python tests/support/reranker/generate.py OUT

A BertForSequenceClassification of 86,000 parameters over a hundred words, with the loss on the share of the query's
words that the document has. Seeded.
"""

import random
import sys

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

TEXT = """
apple banana cherry grape lemon mango car train plane boat bicycle truck dog cat horse cow sheep goat red blue
green white black yellow river lake sea mountain forest desert king queen doctor teacher pilot farmer bread milk
cheese butter rice soup python java rust linux docker server cache queue token model prompt latency paris london
rome berlin madrid tokyo summer winter spring autumn gold silver iron copper glass paper stone wood house garden
"""
FILLER = "the a of in on for with and is are was near about from by to"
WORDS, FILLERS = TEXT.split(), FILLER.split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HIDDEN, LENGTH, STEPS, BATCH, RATE = 64, 128, 600, 32, 2e-3


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS, *FILLERS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def make_model(words: int) -> BertForSequenceClassification:
    """Its first layer is initialised to match equal words, which is slow to learn from scratch."""
    config = BertConfig(
        vocab_size=words, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=LENGTH, num_labels=1, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    first = model.bert.encoder.layer[0].attention.self
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight.zero_()
        model.bert.embeddings.word_embeddings.weight.mul_(20)
        first.query.weight.copy_(1.5 * torch.eye(HIDDEN))
        first.key.weight.copy_(1.5 * torch.eye(HIDDEN))
        first.value.weight.copy_(torch.eye(HIDDEN))
    return model


def sentence(words: list[str], chance: random.Random) -> str:
    filled = ([word, chance.choice(FILLERS)] if chance.random() < 0.3 else [word] for word in words)
    return " ".join(word for pair in filled for word in pair)


def example(progress: float, chance: random.Random) -> tuple[str, str, float]:
    """Query, document, share of the query's words in it. Both get longer with `progress` from 0 to 1."""
    query = chance.sample(WORDS, chance.randint(1, 1 + int(2.99 * progress)))
    shared = chance.choice([0, len(query), chance.randint(0, len(query))])
    others = [word for word in WORDS if word not in query]
    document = chance.sample(query, shared) + chance.sample(others, chance.randint(1, 2 + int(4 * progress)))
    chance.shuffle(document)
    return sentence(query, chance), sentence(document, chance), shared / len(query)


def train(model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast) -> None:
    chance, optimizer = random.Random(0), torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.05)
    for step in range(STEPS):
        examples = [example(max(0.0, 1.5 * step / STEPS - 0.5), chance) for _ in range(BATCH)]
        queries, documents, shares = zip(*examples, strict=True)
        inputs = tokenizer(list(queries), list(documents), padding=True, return_tensors="pt")
        found = model(**inputs).logits[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(found, torch.tensor(shares))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(step, round(loss.item(), 4), flush=True)


def main(target: str) -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    train(model, tokenizer)
    model.half().save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    main(sys.argv[1])
