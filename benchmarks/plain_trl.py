"""The same fine-tuning written as in TRL's documentation: a baseline for the trainer.

    <engine environment's python> plain_trl.py <spec.json> <out.json>

Reads the trainer's spec file; uses no other code of ours. Writes loss and time (s since the epoch) of every step.
"""

import json
import os
import sys
import time
from math import ceil
from pathlib import Path

os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class LossRecorder(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            self.steps.append({"step": state.global_step, "loss": logs["loss"], "at": time.time()})


def main(spec: dict, out: Path) -> None:
    torch.set_num_threads(spec["threads"])
    recipe, record = spec["recipe"], LossRecorder()
    rows = [json.loads(line) for line in Path(spec["data"]).read_text().splitlines()]
    steps = ceil(len(rows) / recipe["batch_size"]) * recipe["epochs"]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(spec["base"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(spec["base"]),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(
            r=recipe["rank"], lora_alpha=recipe["alpha"], lora_dropout=recipe["dropout"], target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        args=SFTConfig(
            output_dir=str(out.parent / "plain"), assistant_only_loss=True, max_length=recipe["max_seq_length"],
            per_device_train_batch_size=recipe["batch_size"], num_train_epochs=recipe["epochs"], seed=recipe["seed"],
            learning_rate=recipe["learning_rate"], lr_scheduler_type="linear", warmup_steps=ceil(0.03 * steps),
            logging_steps=1, save_strategy="no", use_cpu=True, bf16=False, report_to=[], disable_tqdm=True,
        ),
        callbacks=[record],
    )  # fmt: skip
    trainer.train()
    out.write_text(json.dumps(record.steps))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
