"""The commands `midrib train` and `midrib predict`; midrib-task does their work."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shlex
import shutil
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from midrib.remote._command.responsive import end_soon_after_ctrl_c, ended_by_ctrl_c
from midrib.remote.cli import import_modules, parse_backbone
from midrib.server._command.unknown_options import near_options

_INSTALL = "pip install 'midrib-server[train]'"
_LIGHTNING_OPTIONS = ("--model.", "--trainer.", "--trainer", "--print_config")
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_Rows = Annotated[int, typer.Option(min=1, help="Rows of a batch.")]


def train(
    context: typer.Context,
    *,
    backbone: Annotated[
        str, typer.Option(help="grpc://host:port/namespace/name, or a registered name[?argument=value].")
    ],
    data: Annotated[
        Path, typer.Option(help="A folder with a subfolder for each class, or a table: .csv .json .jsonl .parquet.")
    ],
    out: Annotated[Path, typer.Option(help="The folder for the head and its report.")] = Path("midrib-head"),
    val: Annotated[
        Path | None, typer.Option(help="Validation data in the same form; default: a part of --data.")
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(help="Test data in the same form, for the report; default: the report is of the validation data."),
    ] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="A table's column of inputs.")] = None,
    labels: Annotated[list[str] | None, typer.Option("--label", help="A table's column of labels.")] = None,
    separator: Annotated[str | None, typer.Option(help="Divides several labels in one cell, such as '|'.")] = None,
    head: Annotated[str | None, typer.Option(help="mlp, cosine or another registered head; default: linear.")] = None,
    finetuning: Annotated[
        str | None, typer.Option(help="freeze trains only the head (the default), no_freeze also the backbone.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data; default: 20.")] = None,
    batch_size: _Rows = 32,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="The optimizer's learning rate; default: 0.01.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A YAML file with options of LightningCLI: training.yaml beside an earlier head."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the split and of the training.")] = 0,
    imports: Annotated[list[str] | None, typer.Option("--import", help="A module that registers backbones.")] = None,
    as_json: _Json = False,
) -> None:
    """Train a head on a folder or a table, and write it with a report of its accuracy and worst mistakes.

    Every argument of Lightning's Trainer and of the task is an option too, as LightningCLI has it:
    --trainer.accelerator=gpu --model.optimizer=sgd, or --config FILE with them; --print_config shows all.
    """
    _check_lightning_options(context)
    _check_paths(data, val, test, config)
    with ended_by_ctrl_c():
        typer.echo(f"training a head on {backbone} ...", err=True)
        _prepare()
        from midrib.task._command.training import TrainingOptions
        from midrib.task._command.training import train as train_head

        import_modules(imports)
    end_soon_after_ctrl_c(_remove_features)
    parsed: dict[str, Any] = {"name": backbone, "arguments": {}} if "://" in backbone else parse_backbone(backbone)
    options = TrainingOptions(
        parsed["name"],
        data,
        out,
        backbone_kwargs=parsed["arguments"],
        val=val,
        test=test,
        input=_one_or_several(inputs),
        label=_one_or_several(labels),
        label_separator=separator,
        head=head,
        finetuning=finetuning,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        lightning=[*([] if config is None else [f"--config={config}"]), *context.args],
        trainer={"enable_progress_bar": not as_json},
    )
    report = train_head(options)
    use = f"written to {out}; to use it: midrib predict {shlex.quote(str(out))} FILE"
    typer.echo(json.dumps(asdict(report)) if as_json else f"{report.summary()}\n{use}")


def predict(
    head: Annotated[Path, typer.Argument(help="The folder that `midrib train` wrote, or its head.safetensors.")],
    inputs: Annotated[list[Path], typer.Argument(help="Files, folders or tables.")],
    *,
    column: Annotated[str | None, typer.Option(help="A table's column of inputs; default: its usual names.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many labels to give each row.")] = 1,
    batch_size: _Rows = 32,
    as_json: _Json = False,
) -> None:
    """Predict labels with a trained head, a line for each file or row.

    Exits with 1 if one of them cannot be read.
    """
    head = head / "head.safetensors" if head.is_dir() else head
    _check_paths(head, *inputs)
    with ended_by_ctrl_c():
        typer.echo(f"loading {head} ...", err=True)
        _prepare()
        from midrib.task._command.prediction import predict as predict_rows
    end_soon_after_ctrl_c(_remove_features)

    complete, backbone = True, ""
    for row in predict_rows(head, inputs, column=column, top=top, batch_size=batch_size):
        if row.backbone != backbone:
            backbone = row.backbone
            typer.echo(f"features by {backbone}, revision {row.revision[:12]}", err=True)
        answers = [f"{name} {share:.3f}" for name, share in zip(row.labels, row.probabilities, strict=True)]
        typer.echo(json.dumps(asdict(row)) if as_json else f"{row.row}\t{', '.join(answers) or row.error or '-'}")
        complete = complete and row.error is None
    if not complete:
        raise typer.Exit(1)


def _check_lightning_options(context: typer.Context) -> None:
    """Raise BadParameter for an argument that neither this command nor LightningCLI has."""
    for argument in context.args:
        name = argument.partition("=")[0]
        is_number = name[1:2].isdigit()  # the value of the option before it, as in --trainer.devices -1
        if name.startswith("-") and not is_number and not name.startswith(_LIGHTNING_OPTIONS):
            near = near_options(context, name)
            raise typer.BadParameter(f"{name} is not an option of this command: did you mean {near}?")
    if context.args and not context.args[0].startswith("-"):
        raise typer.BadParameter(f"got the argument {context.args[0]!r}: pass the data with --data")


def _check_paths(*paths: Path | None) -> None:
    """Raise FileNotFoundError for a path that does not exist, before anything slow is imported."""
    for path in paths:
        if path is not None and not path.exists():
            raise FileNotFoundError(f"{path} does not exist: check the path")


def _prepare() -> None:
    """Silence messages of Lightning that are not about the data. Raises ImportError if midrib-task is missing."""
    for module, package in (("midrib.task", "midrib-task"), ("jsonargparse", "jsonargparse")):
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"training a head needs {package}, not installed here: {_INSTALL}")
    import pytorch_lightning  # noqa: F401 (it sets the level of its log when it is imported)

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\.")
    warnings.filterwarnings("ignore", message=".* rows are left out")  # the report lists them


def _remove_features() -> None:
    """Remove the cached features of this process, which its exit would remove."""
    for folder in Path(tempfile.gettempdir()).glob(f"midrib-features-{os.getpid()}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _one_or_several(names: list[str] | None) -> str | list[str] | None:
    return names[0] if names and len(names) == 1 else names
