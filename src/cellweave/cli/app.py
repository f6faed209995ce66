"""``cellweave``: the commands, their options and their help."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from cellweave import __version__
from cellweave.core.errors import CellweaveError

app = typer.Typer(
    name="cellweave",
    help="Find, outline and count cells in any microscope image.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="Models and model sets: list, show, add, remove, carry.", no_args_is_help=True)
app.add_typer(models_app, name="models")
data_app = typer.Typer(help="Look at annotated images before a training.", no_args_is_help=True)
app.add_typer(data_app, name="data")
fuse_app = typer.Typer(help="Several models of a set as one.", no_args_is_help=True)
app.add_typer(fuse_app, name="fuse")

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def main() -> None:
    """Entry point: runs a command; an error of ours becomes one readable line and exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        app()
    except CellweaveError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("stopped", 130)


def _fail(message: str, status: int) -> NoReturn:
    typer.secho(f"cellweave: {message}", fg="red", err=True)
    sys.exit(status)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cellweave {__version__}")
        raise typer.Exit


Illumination = Annotated[Path | None, typer.Option(help="Even out the light with this file of cellweave illumination.")]
Clahe = Annotated[
    str | None,
    typer.Option(help="Local contrast (CLAHE) in so many tiles: 8x8, or 8x8,40 to clip at 40 (2 without it)."),
]
ScalingFile = Annotated[
    Path | None, typer.Option(help="Same grey values in all images, by this file of cellweave scaling.")
]


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Find, outline and count cells in any microscope image."""


@app.command()
def segment(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Image files, folders of images, or patterns.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    model: Annotated[str, typer.Option(help="Name or folder of a model, or a Cellpose weights file.")] = "default",
    channels: Annotated[
        str | None,
        typer.Option(help="gray, gray:DAPI, CYTOPLASM,NUCLEUS (names or numbers from 1), green-blue, merged:A,B."),
    ] = None,
    diameter: Annotated[
        str | None, typer.Option(help="Cell diameter: 30 (pixels) or 12um. Estimated without it.")
    ] = None,
    save: Annotated[
        str, typer.Option(help="Any of labels, png, zarr, overlay, table, diagnostics.")
    ] = "labels,overlay,table",
    device: Device = "auto",
    overwrite: Annotated[
        bool,
        typer.Option(help="Do these files again. Others in --out stay, so with new settings give all of them."),
    ] = False,
    plane: Annotated[str | None, typer.Option(help="Of time lapses and stacks: t=0, z=5 or t=0,z=5.")] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of files that do not tell them, for example CYX.")] = None,
    augment: Annotated[bool, typer.Option(help="Average over four flips: slower, a little better.")] = False,
    probability_threshold: Annotated[
        float | None, typer.Option(help="Lower finds more and larger cells (0..1).")
    ] = None,
    flow_threshold: Annotated[
        float | None, typer.Option(help="Higher keeps more doubtful shapes; 0 keeps all.")
    ] = None,
    min_size: Annotated[int | None, typer.Option(help="Smallest cell, in pixels of area.")] = None,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out cells with a lower confidence (0..1).")
    ] = 0.0,
    model_set: Annotated[
        str | None, typer.Option(help="Name or folder of a model set, whose models the names of channels pick.")
    ] = None,
    cell_line: Annotated[str | None, typer.Option(help="With --model-set: of the cells, for example U2OS.")] = None,
    reporters: Annotated[
        str | None, typer.Option(help="With --model-set: names of the channels, where files do not tell: A,B,C.")
    ] = None,
    object_: Annotated[
        str | None, typer.Option("--object", help="With --model-set: only nuclei, or only cells.")
    ] = None,
    illumination: Illumination = None,
    clahe: Clahe = None,
    scaling: ScalingFile = None,
) -> None:
    """Segment images: labels, an overlay picture and a table for each, and a summary of the run.

    With --model-set, nuclei and cells are segmented and linked; --diameter is then nuclei=15,cells=30.
    """
    from cellweave.cli import segment as one_model
    from cellweave.cli import segment_set as set_of_models
    from cellweave.prep import Preparation

    prepared = Preparation.load(illumination, clahe, scaling)
    options = {
        "probability_threshold": probability_threshold,
        "flow_threshold": flow_threshold,
        "min_size": min_size,
    }
    decoding = {k: v for k, v in options.items() if v is not None}
    common: dict[str, Any] = {
        "diameter": diameter,
        "save": tuple(dict.fromkeys(kind.strip() for kind in save.split(",") if kind.strip())),
        "plane": plane,
        "axes": axes,
        "augment": augment,
        "min_confidence": min_confidence,
    }
    if model_set is not None:
        given = {"model": model != "default", "channels": channels is not None, **decoding}
        if wrong := [f"--{option.replace('_', '-')}" for option, value in given.items() if value is not False]:
            raise CellweaveError(f"{', '.join(wrong)} cannot be used with --model-set, whose models say it themselves")
        chosen = set_of_models.Settings(model_set, cell_line, _names(reporters), object_, **common)
        failed = set_of_models.run(inputs, out, chosen, device=device, overwrite=overwrite, prepared=prepared)
    elif cell_line or reporters or object_:
        raise CellweaveError("--cell-line, --reporters and --object are for the models of a set; add --model-set")
    else:
        settings = one_model.Settings(model=model, channels=channels, decoding=decoding, **common)
        failed = one_model.run(inputs, out, settings, device=device, overwrite=overwrite, prepared=prepared)
    if failed:
        raise typer.Exit(1)


@app.command("illumination")
def illumination_(
    inputs: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Images of one acquisition: files, folders, or patterns.")
    ],
    out: Annotated[Path, typer.Option(help="File for the result (.npz), for segment --illumination.")],
    method: Annotated[
        str, typer.Option(help="cidre, flat-field (a quantile of each pixel), or reference (of an even sample).")
    ] = "cidre",
    offset: Annotated[float | None, typer.Option(help="Grey value of no light, where it is known.")] = None,
    quantile: Annotated[float, typer.Option(min=0, max=1, help="With --method flat-field.")] = 0.5,
    dark: Annotated[
        list[str] | None, typer.Option(help="With --method reference: images with the shutter closed.")
    ] = None,
    plane: Annotated[str | None, typer.Option(help="Of time lapses and stacks: t=0, z=5; all without it.")] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of files that do not tell them, for example CYX.")] = None,
) -> None:
    """Estimate how uneven the light is, once for all images of an acquisition."""
    from cellweave.cli.preparation import Files, make_field, told_field
    from cellweave.core.progress import console_progress

    images = Files(inputs, axes, plane)
    darks = Files(dark, axes, plane) if dark else None
    with console_progress():
        field = make_field(images, method, dark=darks, offset=offset, quantile=quantile)
    field.save(out)
    typer.echo("\n".join(told_field(field, images[0].channel_names)))
    typer.echo(f"Use it with: cellweave segment IMAGES --out RESULTS --illumination {out}")


@app.command("scaling")
def scaling_(
    inputs: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Images of one acquisition: files, folders, or patterns.")
    ],
    out: Annotated[Path, typer.Option(help="File for the result (.json), for segment --scaling.")],
    illumination: Annotated[Path | None, typer.Option(help="As for segment, if it is used there.")] = None,
    clahe: Annotated[str | None, typer.Option(help="As for segment, if it is used there.")] = None,
    plane: Annotated[str | None, typer.Option(help="Of time lapses and stacks: t=0, z=5; all without it.")] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of files that do not tell them, for example CYX.")] = None,
) -> None:
    """Measure the 1st and 99th percentile of all images of an acquisition, so that they are scaled alike."""
    from cellweave.cli.preparation import Files, told_scaling
    from cellweave.core.progress import console_progress
    from cellweave.prep import Preparation, measure_scaling

    with console_progress():
        found = measure_scaling(Files(inputs, axes, plane, Preparation.load(illumination, clahe)))
    found.save(out)
    typer.echo("\n".join(told_scaling(found)))
    typer.echo(f"Use it with: cellweave segment IMAGES --out RESULTS --scaling {out}")


@app.command()
def link(
    nuclei: Annotated[Path, typer.Argument(metavar="NUCLEI", help="Label file, or folder of them.")],
    cells: Annotated[Path, typer.Argument(metavar="CELLS", help="Label file, or folder of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables and the labels of the cytoplasm.")],
    image: Annotated[Path | None, typer.Option(help="Image file, or folder of them, for intensities.")] = None,
    least_share: Annotated[
        float, typer.Option(help="A nucleus of which no cell holds this share is outside every cell.")
    ] = 0.25,
) -> None:
    """Give each nucleus to its cell: one table with both, and the cytoplasm as labels."""
    from cellweave.cli.link import run

    if run(nuclei, cells, out, image, least_share):
        raise typer.Exit(1)


@app.command()
def count(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Image files, folders of images, or patterns.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the results; without it they are only shown.")] = None,
    model: Annotated[
        str,
        typer.Option(
            help="Name or folder of a model; of SAM, the folder of its weights, or sam: and a name on the hub."
        ),
    ] = "default",
    channels: Annotated[str | None, typer.Option(help="Channel policy, as for segment.")] = None,
    diameter: Annotated[
        str | None, typer.Option(help="Cell diameter: 30 (pixels) or 12um. Estimated without it, where it is needed.")
    ] = None,
    interval: Annotated[
        float, typer.Option(help="Share of true counts that the interval should hold; 0 for no interval.")
    ] = 0.9,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out cells with a lower confidence (0..1).")
    ] = 0.0,
    augment: Annotated[bool, typer.Option(help="Average over four flips: slower, a little better.")] = False,
    save: Annotated[
        str, typer.Option(help="Any of table (counts.csv, always), points, picture, density.")
    ] = "table,points,picture",
    device: Device = "auto",
    overwrite: Annotated[
        bool,
        typer.Option(help="Do these files again. Others in --out stay, so with new settings give all of them."),
    ] = False,
    plane: Annotated[str | None, typer.Option(help="Of time lapses and stacks: t=0, z=5 or t=0,z=5.")] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of files that do not tell them, for example CYX.")] = None,
) -> None:
    """Count cells: a number and an interval for each image, where the cells are, and where not to believe it.

    With a model of points (cellweave train --target points) the count is the sum of a density, otherwise the number of
    outlined cells. Every other way of counting has a model folder, too: area, blobs and Mask R-CNN (cellweave train
    --method), and SAM's weights as transformers saves them (config.json, model.safetensors), which is asked at the
    points of a grid. These tell no interval. Compare with true points: cellweave evaluate --points OUT TRUTH
    """
    from cellweave.cli.count import Settings, run

    settings = Settings(
        model=model,
        channels=channels,
        diameter=diameter,
        save=tuple(dict.fromkeys(kind.strip() for kind in save.split(",") if kind.strip())),
        plane=plane,
        axes=axes,
        augment=augment,
        interval=interval,
        min_confidence=min_confidence,
    )
    if run(inputs, out, settings, device=device, overwrite=overwrite):
        raise typer.Exit(1)


@app.command()
def train(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Folders of images and labels.")],
    out: Annotated[Path, typer.Option(help="Folder for the run; the model will be in its folder 'model'.")],
    validation: Annotated[
        Path | None, typer.Option(help="Folder of validation images; without it a tenth is held out.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Model to fine-tune, for example default.")] = None,
    net: Annotated[
        str, typer.Option(help="FastUNet, CellposeUNet, AnchorUNet or NestedUNet, without a base.")
    ] = "FastUNet",
    width: Annotated[float, typer.Option(help="Channels of the net as a share of its usual ones.")] = 1.0,
    representation: Annotated[
        str | None, typer.Option(help="DiffusionFlows, StarConvex, DistanceFlows, WatershedEnergy or Heatmap.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="What DATA tells: labels, or points (tables, Label Studio, COCO, dot images).")
    ] = "labels",
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Of points: not every cell has one; learn only from what is near them.")
    ] = False,
    sigma: Annotated[float | None, typer.Option(help="Of points: width of a cell's Gaussian in px.")] = None,
    debris: Annotated[
        bool, typer.Option("--debris", help="Of points: find dead cells and debris, too, without counting them.")
    ] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 100,
    recipe: Annotated[str, typer.Option(help="adamw, sgd (the Cellpose paper's), cosine or adam.")] = "adamw",
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate; the recipe's without it.")] = None,
    batch_size: Annotated[int, typer.Option(help="Crops a batch.")] = 8,
    accumulate: Annotated[int, typer.Option(help="Batches a step.")] = 1,
    crop: Annotated[int, typer.Option(help="Side of a crop in px, a multiple of 16.")] = 224,
    diameter: Annotated[float | None, typer.Option(help="Cells are resized to this diameter in px.")] = None,
    weights: Annotated[str | None, typer.Option(help="Shares of the DATA folders, in their order: 0.7,0.3.")] = None,
    simulated: Annotated[float, typer.Option(help="Share of simulated pictures, 0 to below 1.")] = 0.0,
    recipes: Annotated[str, typer.Option(help="What is simulated: bacteria,yeast; all without it.")] = "",
    channels: Annotated[str, typer.Option(help="Channel policy, as for segment.")] = "auto",
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without progress.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same model.")] = 0,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    only_prepare: Annotated[
        bool, typer.Option("--prepare-only", help="Write shards, to train on a machine with PyTorch alone.")
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(
            help="cell-segmenter: several models, of which one is chosen for each image. To count: area, blobs or "
            "mask-rcnn."
        ),
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="Folder of images without labels; the model labels them and learns from both.")
    ] = None,
    oversample: Annotated[
        float, typer.Option(min=1, help="With --unlabelled: labelled images are shown so many times as often.")
    ] = 8.0,
    imagenet: Annotated[
        Path | None,
        typer.Option(
            help="Weights to start from: of a ResNet-18 with --method cell-segmenter, of a MobileNetV3-Large with "
            "--net NestedUNet, of torchvision's ResNet or Mask R-CNN with --method mask-rcnn."
        ),
    ] = None,
    augmentation: Annotated[
        str | None,
        typer.Option(
            help="standard, microscopy (other acquisitions' noise), classical, square, superposed (to count cells that "
            "overlap, in fluorescence) or none."
        ),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="channel-wise, universal or grayscale: a model set for nuclei and cells.")
    ] = None,
    cell_line: Annotated[str | None, typer.Option(help="Of the images, with --strategy.")] = None,
    reporters: Annotated[
        str, typer.Option(help="With --strategy, names of the channels where files have none: P1,P2,P3.")
    ] = "",
    illumination: Illumination = None,
    clahe: Clahe = None,
    scaling: ScalingFile = None,
) -> None:
    """Train a model on your own images, from scratch or from a base model.

    --strategy trains models for images without nuclear or membrane stain and puts them into the model set OUT/set. DATA
    has images/ (whose channels have names), nuclei/ and cells/, or sub-folders like it, named by cell lines. Each model
    is fine-tuned from the base (default) with --augmentation microscopy, until --patience 20 epochs brought nothing.

    --method cell-segmenter chooses net, representation, recipe and preparation itself. Its paper trains 300 epochs with
    batches of 32 crops of 640 px on two graphics cards; the defaults are for the processor of a laptop.

    --target points learns to count cells from one point in each: DATA has images/ and points/. The model is for count.
    With --representation DiffusionFlows or StarConvex it learns outlines that are guessed from the points.

    --target points --method area | blobs | mask-rcnn are other ways to count. area (cells to an area of foreground) and
    blobs (their sizes and contrast) are fitted in seconds, with --sparse and --channels gray:NAME only. mask-rcnn
    (extra detect) learns boxes of --diameter 50 px in crops of --crop 512 px, 2 in a --batch-size, for --epochs; --net
    is resnet50 or resnet18.
    """
    from cellweave.cli.train import Plan, run
    from cellweave.prep import Preparation

    plan = Plan(
        data=data,
        validation=validation,
        weights=weights,
        resume=resume,
        only_prepare=only_prepare,
        method=method,
        unlabelled=unlabelled,
        oversample=oversample,
        imagenet=imagenet,
        strategy=strategy,
        cell_line=cell_line,
        reporters=_names(reporters),
        prepared=Preparation.load(illumination, clahe, scaling),
    )
    settings = {
        "out": out,
        "base": base,
        "net": net,
        "width": width,
        "representation": representation,
        "target": target,
        "sparse": sparse,
        "sigma": sigma,
        "debris": debris,
        "epochs": epochs,
        "batch_size": batch_size,
        "crop": crop,
        "accumulate": accumulate,
        "recipe": recipe,
        "learning_rate": learning_rate,
        "diameter": diameter,
        "simulated": simulated,
        "recipes": tuple(name.strip() for name in recipes.split(",") if name.strip()),
        "augmentation": augmentation,
        "patience": patience,
        "channels": channels,
        "seed": seed,
        "device": device,
        "overwrite": overwrite,
    }
    run(plan, settings)


@app.command()
def evaluate(
    predicted: Annotated[Path, typer.Argument(metavar="PRED", help="Label file, or folder of them.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="Label file, or folder of them.")],
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json and evaluation.csv.")] = None,
    points: Annotated[
        bool, typer.Option("--points", help="PRED and TRUTH are points: CSV, Label Studio or COCO JSON, dot images.")
    ] = False,
    radius: Annotated[
        float | None, typer.Option(help="With --points: largest distance in px of a match; 12 without it.")
    ] = None,
    object_: Annotated[
        str | None, typer.Option("--object", help="Of folders with both: only the files of nuclei, or of cells.")
    ] = None,
) -> None:
    """Compare label images with the truth: precision, recall, F1, AP, PQ at IoU 0.5 to 0.95, overlap, counts.

    With --points, compare cell positions: precision, recall and F1 within --radius, MAE, RMSE and MAPE of the counts.
    Of what cellweave count wrote without points, only the counts are compared.
    """
    from cellweave.cli.evaluate import run, run_points
    from cellweave.metrics.counting import RADIUS

    if points and object_:
        raise CellweaveError("--object is for labels; leave out --object, or --points")
    if points:
        run_points(predicted, truth, out, RADIUS if radius is None else radius)
    elif radius is not None:
        raise CellweaveError("--radius is for points; add --points")
    else:
        run(predicted, truth, out, object_)


@app.command()
def simulate(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Without it the recipes are listed.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for images/ and labels/.")] = None,
    n: Annotated[int, typer.Option("--n", help="Pictures, films or stacks.")] = 100,
    size: Annotated[str, typer.Option(help="Side in px, or height x width such as 256x320.")] = "256",
    seed: Annotated[int, typer.Option(help="Same seed, same pictures.")] = 0,
    diameter: Annotated[float | None, typer.Option(help="Cell diameter in px; drawn at random without it.")] = None,
    frames: Annotated[int, typer.Option(help="Frames of a time lapse, with the lineage in lineage.csv.")] = 1,
    depth: Annotated[int, typer.Option(help="Planes of a stack.")] = 1,
) -> None:
    """Make microscope pictures with exact labels; without RECIPE, list what can be made."""
    from cellweave.core.progress import console_progress
    from cellweave.simulate import RECIPES

    if recipe is None:
        width = max(map(len, RECIPES))
        for name, made in RECIPES.items():
            typer.echo(f"{name:<{width}}  {made.summary}")
        return
    from cellweave.cli.simulate import Order, parse_size, run

    if out is None:
        raise CellweaveError("simulate: say where to write with --out FOLDER")
    order = Order(recipe, n, parse_size(size), seed, diameter, frames, depth)
    with console_progress():
        run(order, out)
    typer.echo(
        f"{out} holds images/ and labels/.{'' if depth > 1 else f' Train on it with: cellweave train {out} --out RUN'}"
    )


@app.command()
def info(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Image files.")],
    axes: Annotated[str | None, typer.Option(help="Axes of files that do not tell them, for example CYX.")] = None,
) -> None:
    """Show what the reader sees in image files."""
    from cellweave.io import describe, read_image

    failed = False
    for file in files:
        try:
            facts = describe(read_image(file, axes=axes))
        except CellweaveError as error:
            typer.secho(f"cellweave: {error}", fg="red", err=True)
            failed = True
            continue
        width = max(map(len, facts))
        for name, value in facts.items():
            typer.echo(f"{name:<{width}}  {value}")
        typer.echo()
    if failed:
        raise typer.Exit(1)


def _names(reporters: str | None) -> tuple[str, ...]:
    """Of the channels in their order; an empty one leaves its channel out."""
    return tuple(name.strip() for name in reporters.split(",")) if reporters else ()


@fuse_app.command("select")
def fuse_select(
    model_set: Annotated[str, typer.Argument(metavar="SET", help="Name or folder of a model set.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with images/, nuclei/ and cells/.")],
    cell_line: Annotated[str | None, typer.Option(help="Of the images; may be left out where the set has one.")] = None,
    object_: Annotated[str | None, typer.Option("--object", help="Only nuclei, or only cells.")] = None,
    reporters: Annotated[
        str | None, typer.Option(help="Names of the channels, where files do not tell: A,B,C.")
    ] = None,
    methods: Annotated[str, typer.Option(help="Methods of fusion to try: flow_fusion,staple; all without it.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for the tables; that of the set without it.")] = None,
    device: Device = "auto",
    illumination: Illumination = None,
    clahe: Clahe = None,
    scaling: ScalingFile = None,
) -> None:
    """Score channels and methods of fusion on labelled images, and keep the best in the set.

    Every subset of up to 8 channels is fused by every method; with more channels, subsets are searched greedily. Give
    images that the models did not learn from.
    """
    from cellweave.cli.fuse import run
    from cellweave.prep import Preparation

    chosen = tuple(method.strip().replace(" ", "_") for method in methods.split(",") if method.strip())
    run(
        model_set,
        data,
        cell_line=cell_line,
        object=object_,
        reporters=_names(reporters),
        methods=chosen,
        prepared=Preparation.load(illumination, clahe, scaling),
        out=out,
        device=device,
    )


ModelName = Annotated[str, typer.Argument(metavar="NAME", help="Name or folder of a model or a model set.")]
Object = Annotated[str | None, typer.Option("--object", help="Of a model in a set: nuclei or cells.")]
CellLine = Annotated[str | None, typer.Option(help="Of a model in a set, for example U2OS.")]
Reporter = Annotated[
    str | None, typer.Option(help="Of a model in a set: the channel's name; any, or average for that of all channels.")
]


@models_app.command("list")
def models_list() -> None:
    """List the models that --model finds by name, and the sets that --model-set finds."""
    from cellweave.cli.models import show_list

    show_list()


@models_app.command("info")
def models_info(model: ModelName) -> None:
    """Show the card of a model or a set: data, licences, recipe, figures."""
    from cellweave.cli.models import show_info

    show_info(model)


@models_app.command("add")
def models_add(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a model or set, weights file, or name.")],
    name: Annotated[str | None, typer.Option(help="Name that it gets; that of the folder without it.")] = None,
    into: Annotated[str | None, typer.Option("--set", help="Add it to this model set; a new name makes one.")] = None,
    object_: Object = None,
    cell_line: CellLine = None,
    reporter: Reporter = None,
    diameter: Annotated[
        float | None, typer.Option(help="Of a model in a set: size of the objects that it learned from, in px.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Add a model or a set to yours; or, with --set, --object, --cell-line and --reporter, a model to a set."""
    from cellweave.cli.models import add

    place = (object_, cell_line, reporter)
    add(source, name=name, into=into, place=place, diameter=diameter, overwrite=overwrite)


@models_app.command("remove")
def models_remove(
    name: ModelName,
    object_: Object = None,
    cell_line: CellLine = None,
    reporter: Reporter = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete one of your models or sets; or, with --object, --cell-line and --reporter, a model of a set."""
    from cellweave.cli.models import remove

    place = (object_, cell_line, reporter)
    what = ", ".join(part for part in place if part)
    if not yes:
        typer.confirm(f"Delete {f'the model for {what} from ' if what else ''}'{name}'?", abort=True)
    remove(name, place)


@models_app.command("export")
def models_export(
    name: ModelName,
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="Archive to write.")],
    overwrite: Annotated[bool, typer.Option(help="Replace the file.")] = False,
) -> None:
    """Pack a model or a set into one archive, with the hash of every file."""
    from cellweave.cli.models import export

    export(name, file, overwrite=overwrite)


@models_app.command("import")
def models_import(
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="What models export wrote.")],
    name: Annotated[str | None, typer.Option(help="Name that it gets; its own without it.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what has this name.")] = False,
) -> None:
    """Unpack an archive to your models, after all of it was checked."""
    from cellweave.cli.models import take_in

    take_in(file, name=name, overwrite=overwrite)


@data_app.command("summary")
def data_summary(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Folders of images and labels, as for train.")],
) -> None:
    """Numbers of images, objects and channels, diameters, and the diameter to give to a model."""
    from cellweave.cli.data import run_summary

    if run_summary(data):
        raise typer.Exit(1)


@data_app.command("audit")
def data_audit(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of images and labels, as for train.")],
    out: Annotated[Path | None, typer.Option(help="Folder for audit.csv, audit.txt and pictures.")] = None,
    model: Annotated[str, typer.Option(help="Trained model that the labels are compared with.")] = "default",
    channels: Annotated[str | None, typer.Option(help="Channel policy, as for segment.")] = None,
    device: Device = "auto",
) -> None:
    """Report faults of labels, and list images whose labels a model does not confirm; nothing is changed."""
    from cellweave.cli.data import run_audit

    if run_audit(data, out, model, channels=channels, device=device):
        raise typer.Exit(1)
