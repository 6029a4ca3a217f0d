"""Supervised fine-tuning with LoRA by TRL and PEFT: one run, from its spec to its adapter."""

import json
import os
from pathlib import Path

import checkpoints
import data as rows
import evaluation
import row_losses
import torch
from adapting import adapter_config
from data import Data, Encoder
from evaluation import Measure
from failures import TrainingRefused
from progress import ProgressJournal
from reporting import BEFORE, Reporter
from spec import TrainingSpec, log_interval, warm_up_steps
from stopping import Stop
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LoraTrainer(SFTTrainer):
    """TRL's trainer with our own evaluation on held-out rows, which it reports."""

    def measure(self, when: str) -> Measure | None:
        found = evaluation.measure(self.model, self.held_out, self.args.per_device_eval_batch_size, self.data_collator)
        if found:
            self.journal.write_event("evaluation", self.state.global_step, when=when, **found.as_fields())
        return found

    def evaluate(self, *_, **__) -> dict[str, float]:
        self.measure("during")
        self.control.should_evaluate = False  # transformers reads it again at the end of an epoch
        return {}


def run(spec: TrainingSpec, folder: Path, journal: ProgressJournal, stop: Stop) -> None:
    """Raises TrainingRefused, and any other error as it is."""
    prepare_device(spec)
    tokenizer, model = load_base(spec)
    encoder = Encoder(tokenizer, max_row_tokens(spec, model))
    data = rows.read(spec, encoder)
    resume = folder / spec.resume if spec.resume else None
    step = checkpoints.check(resume)["step"] if resume else 0
    stop.step = step
    report_start(spec, data, step, encoder.longest, journal)
    trainer = make_trainer(spec, folder, tokenizer, model, data)
    trainer.held_out, trainer.journal = data.held_out, journal
    before = json.loads((resume / BEFORE).read_text()) if resume else measure_fields(trainer.measure("before"))
    trainer.add_callback(Reporter(folder, journal, stop, before))
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    finish(trainer, encoder, data, before, folder, stop)


def finish(trainer: LoraTrainer, encoder: Encoder, data: Data, before: dict | None, folder: Path, stop: Stop) -> None:
    stop.deferred = False
    if stop.requested:
        stop.exit_now()
    found = {"before": before, "after": measure_fields(trainer.measure("after"))}
    found["samples"] = evaluation.samples(trainer.model, encoder, data)
    stop.ignore_signals()
    write_atomically(folder / "evaluation.json", found)
    save_adapter(trainer.model, folder)
    trainer.journal.write_event("done", trainer.state.global_step)


def prepare_device(spec: TrainingSpec) -> None:
    logging.disable_progress_bar()
    torch.set_num_threads(spec.threads)
    if spec.device != "cpu":  # GPU kernels else add in any order; on a CPU a fixed number of threads is enough
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False


def load_base(spec: TrainingSpec) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(spec.base, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(spec.base, dtype=DTYPES[spec.dtype], trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise TrainingRefused(
            "The base model's files cannot be loaded for training; the log says why.", "base_model"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked, so any token will do
    return tokenizer, model.to(spec.device)


def max_row_tokens(spec: TrainingSpec, model: PreTrainedModel) -> int:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(spec.recipe.max_seq_length, context or spec.recipe.max_seq_length)


def report_start(spec: TrainingSpec, data: Data, step: int, longest: int, journal: ProgressJournal) -> None:
    for sentence in row_losses.sentences(data.truncated, data.left_out, longest):
        print(sentence)
    journal.write_event(
        "start", step, total_steps=spec.recipe.total_steps(len(data.training_rows)), rows=len(data.training_rows),
        held_out_rows=len(data.held_out), tokens=data.tokens, truncated=data.truncated, left_out=data.left_out,
        limit=longest,
    )  # fmt: skip


def make_trainer(
    spec: TrainingSpec, folder: Path, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, data: Data
) -> LoraTrainer:
    total = spec.recipe.total_steps(len(data.training_rows))
    return LoraTrainer(
        model=model,
        args=arguments(spec, folder / "checkpoints" / checkpoints.DRAFT, total),
        train_dataset=data.table(),
        processing_class=tokenizer,
        peft_config=adapter_config(model, spec.recipe),
    )


def arguments(spec: TrainingSpec, output: Path, total_steps: int) -> SFTConfig:
    """All other arguments have TRL's defaults."""
    recipe = spec.recipe
    return SFTConfig(
        output_dir=str(output),
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=warm_up_steps(total_steps),
        seed=recipe.seed,
        max_length=None,  # rows are cut already
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=spec.device == "cpu",
        bf16=spec.device != "cpu",
        dataloader_pin_memory=spec.device != "cpu",
        logging_steps=log_interval(total_steps),
        logging_nan_inf_filter=False,
        eval_strategy="no",  # the Reporter decides when
        eval_steps=recipe.eval_steps,
        save_steps=recipe.save_steps,
        disable_tqdm=True,
        report_to=[],
    )


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    draft = folder / checkpoints.DRAFT
    model.save_pretrained(draft)
    (draft / "README.md").unlink(missing_ok=True)  # PEFT's card names the folder of the base
    config = json.loads((draft / "adapter_config.json").read_text())
    (draft / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}, indent=1))
    checkpoints.publish(draft, folder / "adapter")


def write_atomically(path: Path, content: dict) -> None:
    draft = path.with_name(f".{path.name}")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def measure_fields(measure: Measure | None) -> dict | None:
    return measure.as_fields() if measure else None
