"""Every option of training with its default, and the check of a whole config.

The files of `configs/` start from `default_config` and only override. Options that may stay unset are
placeholders, so that `--config.data.train=...` works for them on the command line too.
"""

import math
from typing import Any

from ml_collections import ConfigDict, config_dict

from esr_lefuse_jax.errors import ConfigError

STAGES = ("fusion", "sr", "joint")
NETWORKS = {"fusion": ("fusion",), "sr": ("sr",), "joint": ("fusion", "sr")}
PRECISIONS = ("float32", "bfloat16", "float16")
SUPERVISIONS = ("pseudo_hr", "teacher", "self", "photo")
SCHEDULES = ("constant", "cosine")

# Keys that may differ when a run is resumed: they change what is seen or kept, not what is computed.
FREE_ON_RESUME = (
    "log.",
    "checkpoint.",
    "eval.pictures",
    "parallel.",
    "early_stopping.patience",
    "data.workers",
)


def default_config(stage: str = "fusion") -> ConfigDict:
    """The complete config of one stage.

    Args:
        stage: `fusion`, `sr` or `joint`.

    Returns:
        A config that lacks only the data folders (and, for `joint`, the checkpoints to start from).
    """
    c = ConfigDict()
    c.stage = stage
    c.seed = 0
    c.precision = "float32"  # float32, bfloat16 or float16 (with a dynamic loss scale)
    c.batch_size = 4  # examples of one step over all devices and processes
    c.epochs = 100
    c.steps = config_dict.placeholder(int)  # instead of epochs
    c.nonfinite_limit = 20  # steps in a row with a non-finite loss or gradient before training stops

    c.init = ConfigDict()
    c.init.fusion = config_dict.placeholder(str)  # weights to start from: a file, a folder, open or research
    c.init.sr = config_dict.placeholder(str)
    c.init.bicubic_start = True  # an untrained super-resolution network starts as bicubic enlargement

    c.model = ConfigDict()
    c.model.scale = 4
    # Keeps the running statistics of the batch norms and trains with them. For fine-tuning with few or small crops,
    # whose own statistics are not those of whole pictures. Fusion and joint only; starts from trained weights.
    c.model.freeze_batch_norm = False

    c.data = _data_defaults(stage)
    c.loss = _loss_defaults()
    c.optimizer = _optimizer_defaults(stage)

    c.eval = ConfigDict()
    c.eval.every_epochs = 1.0
    c.eval.every_steps = config_dict.placeholder(int)  # instead of every_epochs
    c.eval.batch_size = 1
    c.eval.max_images = 50
    c.eval.pad_to = 1  # pads whole images to a multiple of this; saves compilations when sizes vary
    # On whole images the perceptual term is costly, but most of the sr objective: without it the best is not the best.
    c.eval.perceptual = stage != "fusion"
    c.eval.pictures = 4  # rows of the picture sheet

    c.early_stopping = ConfigDict()
    c.early_stopping.metric = "loss"  # or psnr, ssim, or any term of the objective
    c.early_stopping.patience = 10  # evaluations without improvement; 0 never stops
    c.early_stopping.min_delta = 0.0

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = config_dict.placeholder(int)  # besides every evaluation
    c.checkpoint.keep_latest = 2
    c.checkpoint.asynchronous = True
    c.checkpoint.allow_changes = False  # resume although config or data differ from the run's

    c.log = ConfigDict()
    c.log.every_steps = 50
    c.log.tensorboard = False

    c.parallel = ConfigDict()
    c.parallel.devices = config_dict.placeholder(int)  # all by default
    c.parallel.heartbeat_seconds = 60  # after which a silent process counts as dead
    return c


def _data_defaults(stage: str) -> ConfigDict:
    d = ConfigDict()
    # Sources as [KIND:]PATH[@WEIGHT], separated by commas. Fusion and joint take folders of pairs or prepared
    # data; kinds for sr are pseudo_hr, teacher, self and photo.
    d.train = config_dict.placeholder(str)
    d.validation = config_dict.placeholder(str)  # by default a stable share of the training files
    d.validation_share = 0.1
    d.crop = {"fusion": 128, "sr": 48, "joint": 64}[stage]  # side of the input crop in pixels
    d.augment = True  # flips and quarter turns
    d.darken = 0.0  # share of fusion examples that are darkened copies of well-lit pairs
    d.photo_degradation = (
        0.0  # share of photo examples degraded by blur, noise and JPEG instead of bicubic alone
    )
    d.workers = 0  # reading processes; 0 reads in threads
    return d


def _loss_defaults() -> ConfigDict:
    loss = ConfigDict()
    loss.vgg16 = config_dict.placeholder(str)  # weights file; by default the imported one
    loss.teacher = config_dict.placeholder(str)  # Real-ESRGAN weights; by default the imported ones

    loss.fusion = ConfigDict()
    loss.fusion.l1 = 1.0
    loss.fusion.gradient = 2.0
    loss.fusion.ssim = 0.25
    loss.fusion.perceptual = 0.01
    loss.fusion.smooth = 1.0
    loss.fusion.infrared_share = 0.4  # of the ssim and perceptual terms; the rest is the visible image's
    loss.fusion.dark_level = 0.25
    loss.fusion.activity_level = 0.02

    loss.sr = ConfigDict()
    loss.sr.l1 = 1.0
    loss.sr.perceptual = 0.3
    loss.sr.color = 0.15

    loss.joint = ConfigDict()
    loss.joint.fusion = 1.0
    loss.joint.sr = 1.0
    loss.joint.supervision = "teacher"  # or self; used where the data brings no high-resolution image
    return loss


def _optimizer_defaults(stage: str) -> ConfigDict:
    o = ConfigDict()
    o.learning_rate = {"fusion": 2e-4, "sr": 2e-4, "joint": 2e-5}[stage]
    o.schedule = "cosine"
    o.warmup_steps = 0
    o.final_share = 0.01  # of the learning rate, at the end of the cosine
    o.b1 = 0.9
    o.b2 = 0.999
    o.epsilon = 1e-8
    o.clip_norm = 1.0  # of the whole gradient; 0 does not clip
    o.accumulate = 1  # parts into which a batch is split, one after the other, to save memory
    o.ema_decay = 0.0  # average of the parameters that is evaluated and exported; 0 keeps none
    o.plateau_patience = 0  # evaluations without improvement before the rate is reduced; 0 never
    o.plateau_factor = 0.5
    return o


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """All options as {dotted key: value}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def changed_on_resume(config: ConfigDict, saved: dict[str, Any]) -> list[str]:
    """What differs between a run's saved options and these, as `key: old -> new`, less what may change.

    An option that the run's version did not know yet had its default.
    """
    now, saved = flatten(config), {**flatten(default_config(config.stage)), **saved}
    keys = [k for k in sorted({*now, *saved}) if not k.startswith(FREE_ON_RESUME)]
    return [f"{k}: {saved.get(k)!r} -> {now.get(k)!r}" for k in keys if now.get(k) != saved.get(k)]


def validate(config: ConfigDict) -> None:
    """Checks a whole config before anything is read or compiled.

    Raises:
        ConfigError: one line that names the option, its value and what is allowed.
    """
    known, given = flatten(default_config(_choice(config, "stage", STAGES))), flatten(config)
    for key in sorted(given.keys() - known.keys()):
        raise ConfigError(f"config.{key} is not an option of training; see esr_lefuse_jax/config.py")
    for key in sorted(known.keys() - given.keys()):
        raise ConfigError(
            f"config.{key} is missing; start the config file from default_config({config.stage!r})"
        )

    _choice(config, "precision", PRECISIONS)
    _choice(config, "optimizer.schedule", SCHEDULES)
    _choice(config, "loss.joint.supervision", ("teacher", "self"))
    _choice(config, "model.scale", (2, 3, 4))
    for key in ("batch_size", "nonfinite_limit", "eval.batch_size", "eval.pad_to", "optimizer.accumulate"):
        _number(config, key, 1)
    for key in ("checkpoint.keep_latest", "log.every_steps", "data.crop", "parallel.heartbeat_seconds"):
        _number(config, key, 1)
    for key in ("steps", "eval.every_steps", "checkpoint.every_steps", "parallel.devices"):
        _number(config, key, 1, optional=True)
    for key in ("eval.max_images", "eval.pictures", "early_stopping.patience", "early_stopping.min_delta"):
        _number(config, key, 0)
    for key in (
        "optimizer.warmup_steps",
        "optimizer.clip_norm",
        "optimizer.plateau_patience",
        "data.workers",
    ):
        _number(config, key, 0)
    for key in (
        "data.validation_share",
        "data.darken",
        "data.photo_degradation",
        "loss.fusion.infrared_share",
    ):
        _number(config, key, 0, 1)
    for key in ("optimizer.b1", "optimizer.b2", "optimizer.ema_decay"):
        _number(config, key, 0, 1 - 1e-9)
    for key in ("optimizer.final_share", "optimizer.plateau_factor"):
        _number(config, key, 0, 1)
    for key in ("epochs", "eval.every_epochs", "optimizer.learning_rate", "optimizer.epsilon"):
        _number(config, key, 1e-30)
    for name in ("fusion", "sr", "joint"):
        for key, value in config.loss[name].items():
            if not isinstance(value, str):
                _number(config, f"loss.{name}.{key}", 0)
    for key in ("loss.fusion.dark_level", "loss.fusion.activity_level"):
        _number(config, key, 1e-6)

    if not get(config, "data.train"):
        raise ConfigError("config.data.train is not set: give a folder of data, --config.data.train=PATH")
    if config.batch_size % config.optimizer.accumulate:
        raise ConfigError(
            f"config.batch_size={config.batch_size} is not a multiple of "
            f"config.optimizer.accumulate={config.optimizer.accumulate}"
        )
    needs = (
        4 * config.model.scale if config.stage == "joint" and config.loss.joint.supervision == "self" else 8
    )
    if config.data.crop < needs:
        raise ConfigError(f"config.data.crop={config.data.crop} is too small: at least {needs}")


def get(config: ConfigDict, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def _choice(config: ConfigDict, key: str, allowed: tuple) -> Any:
    value = get(config, key)
    if value not in allowed:
        raise ConfigError(f"config.{key}={value!r} is not one of {', '.join(map(str, allowed))}")
    return value


def _number(config: ConfigDict, key: str, low: float, high: float = math.inf, optional: bool = False) -> None:
    value = get(config, key)
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ConfigError(f"config.{key}={value!r} must be a number {limits}")
